//! Flipped bits in a file that is not open.

use super::original::{Original, SLOTS};
use super::support::Dice;
use super::{is_full, none_hangs, range};

/// The bits to flip: in a full run a part of all of them, one in each byte first; else all of the head, and a sample,
/// most of it where the file holds something.
fn bits(image: &[u8], sample: usize, seed: u64) -> Vec<usize> {
    let len = image.len();
    if is_full() {
        let range = range();
        return (range.start..range.end.min(len * 8)).map(|nth| nth % len * 8 + (nth / len + nth) % 8).collect();
    }
    let filled: Vec<_> = (0..len).filter(|at| image[*at] != 0).collect();
    let mut dice = Dice::new(seed);
    let head = (0..SLOTS.end).step_by(5);
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

fn every_flip_is_refused_or_harmless(what: &str, original: Original, sample: usize) {
    let bits = bits(&original.image, sample, 7);
    let what = format!("{what}, {} bytes", original.image.len());
    let refused = none_hangs(&what, bits.into_iter(), move |bit| {
        original.is_refused(&flipped(&original.image, bit), &|| named(bit))
    });
    assert!(refused > 0, "no flip met anything that is read");
}

#[test]
fn p10_every_bit_of_a_store_of_one_mib_is_refused_or_harmless() {
    every_flip_is_refused_or_harmless("every bit", Original::large(), 60);
}

#[test]
fn p10_a_flipped_bit_in_a_file_that_was_closed_is_refused_or_harmless() {
    every_flip_is_refused_or_harmless("closed", Original::small(true), 150);
}

#[test]
fn p10_a_flipped_bit_in_a_file_that_a_crash_left_is_refused_or_harmless() {
    every_flip_is_refused_or_harmless("left by a crash", Original::small(false), 150);
}

#[test]
fn p10_a_flipped_bit_in_a_slot_of_a_file_that_a_crash_left_is_refused_or_a_torn_commit() {
    let original = Original::small(false);
    let stride = if is_full() { 1 } else { 19 };
    let bits: Vec<_> = (SLOTS.start * 8..SLOTS.end * 8).step_by(stride).collect();
    none_hangs("slots", bits.into_iter(), move |bit| {
        original.is_refused(&flipped(&original.image, bit), &|| named(bit))
    });
}
