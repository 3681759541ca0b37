//! Flipped bits in a file that is not open.

use std::sync::{Arc, Mutex};
use std::thread;

use reentry::SimulatedDisk;

use super::original::{Original, slots};
use super::support::Dice;
use super::{is_full, none_hangs, range, stride};

/// How many threads a full run takes.
const SHARDS: usize = 2;

/// The bits to flip: in a full run a part of all of them, one in each byte first; else some of both heads, and a
/// sample, most of it where the file holds something.
fn bits(image: &[u8], sample: usize, seed: u64) -> Vec<usize> {
    let len = image.len();
    if is_full() {
        let range = range();
        let nths = (range.start..range.end.min(len * 8)).step_by(stride());
        return nths.map(|nth| nth % len * 8 + (nth / len + nth) % 8).collect();
    }
    let filled: Vec<_> = (0..len).filter(|at| image[*at] != 0).collect();
    let mut dice = Dice::new(seed);
    // The file's head, and redb's.
    let head = (0..20).chain(slots(image).start - 64..slots(image).end).step_by(5);
    let inside: Vec<_> = (0..sample * 3 / 4).map(|_| filled[dice.below(filled.len())] * 8 + dice.below(8)).collect();
    let any: Vec<_> = (0..sample / 4).map(|_| dice.below(len * 8)).collect();
    head.map(|byte| byte * 8 + dice.below(8)).chain(inside).chain(any).collect()
}

pub(crate) fn flipped(image: &[u8], bit: usize) -> Vec<u8> {
    let mut image = image.to_vec();
    image[bit / 8] ^= 1 << (bit % 8);
    image
}

pub(crate) fn named(bit: usize) -> String {
    format!("bit {} of byte {} flipped", bit % 8, bit / 8)
}

/// Of the bits of bytes that are never read, a full run tries one in so many all the same.
const UNREAD_STRIDE: usize = 64;

fn every_flip_is_refused_or_harmless(what: &str, original: &Original, sample: usize) {
    let all = bits(&original.image, sample, 7);
    let is_read = original.read_bytes();
    assert!(original.read_bytes() == is_read, "what is read is not the same every time");
    let (bits, unread): (Vec<_>, Vec<_>) = all.iter().partition(|bit| is_read[**bit / 8]);
    println!("{what}: {} bits of {} bytes, {} of them never read", all.len(), original.image.len(), unread.len());
    let tried = unread.iter().step_by(if is_full() { UNREAD_STRIDE } else { 1 }).copied().collect();
    let noticed = flip_each(&format!("{what}, never read"), original.clone(), tried);
    assert_eq!(noticed, 0, "what is never read was noticed");
    let shards = if is_full() { SHARDS } else { 1 };
    let refused: usize = thread::scope(|scope| {
        let shard = |shard: usize| {
            let bits: Vec<_> = bits.iter().skip(shard).step_by(shards).copied().collect();
            let (original, what) = (original.clone(), format!("{what}, {shard} of {shards}"));
            move || flip_each(&what, original, bits)
        };
        let shards: Vec<_> = (0..shards).map(|nth| scope.spawn(shard(nth))).collect();
        shards.into_iter().map(|shard| shard.join().unwrap()).sum()
    });
    println!("{what}: {} bits tried, {refused} refused, {} never read, none wrong", bits.len(), unread.len());
    assert!(refused > 0, "no flip met anything that is read");
}

/// Without a copy of the file for each flip: a refused one was not written to, and is flipped back.
fn flip_each(what: &str, original: Original, bits: Vec<usize>) -> usize {
    let image = Mutex::new(Arc::new(original.image.clone()));
    none_hangs(what, bits.into_iter(), move |bit| {
        let mut image = image.lock().unwrap();
        flip(&mut image, bit);
        let is_refused = original.is_refused_on(&SimulatedDisk::from_image(Arc::clone(&image)), &|| named(bit));
        flip(&mut image, bit);
        is_refused
    })
}

fn flip(image: &mut Arc<Vec<u8>>, bit: usize) {
    Arc::make_mut(image)[bit / 8] ^= 1 << (bit % 8);
}

#[test]
fn p10_every_bit_of_a_store_of_one_mib_is_refused_or_harmless() {
    every_flip_is_refused_or_harmless("every bit", &Original::large(), 60);
}

#[test]
fn p10_a_flipped_bit_in_a_file_that_was_closed_is_refused_or_harmless() {
    every_flip_is_refused_or_harmless("closed", &Original::small(true), 150);
}

#[test]
fn p10_a_flipped_bit_in_a_file_that_a_crash_left_is_refused_or_harmless() {
    every_flip_is_refused_or_harmless("left by a crash", &Original::small(false), 150);
}

#[test]
fn p10_a_flipped_bit_in_a_slot_of_a_file_that_a_crash_left_is_refused_or_a_torn_commit() {
    let original = Original::small(false);
    let stride = if is_full() { 1 } else { 19 };
    let slots = slots(&original.image);
    let bits: Vec<_> = (slots.start * 8..slots.end * 8).step_by(stride).collect();
    none_hangs("slots", bits.into_iter(), move |bit| {
        original.is_refused(&flipped(&original.image, bit), &|| named(bit))
    });
}
