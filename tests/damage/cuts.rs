//! Whole pages that are wrong: cut off, zeroed, swapped with another, or put back from before.

use super::none_hangs;
use super::original::{Original, PAGE};

#[test]
fn p10_the_file_as_it_was_left_opens_and_tells_all() {
    for original in [Original::small(true), Original::small(false), Original::large()] {
        assert!(!original.is_refused(&original.image, &|| "no damage".to_owned()));
    }
}

#[test]
fn p10_a_file_cut_short_at_any_page_is_refused_or_whole() {
    for is_closed in [true, false] {
        let original = Original::small(is_closed);
        let whole = original.image.len();
        let odd = [1, 8, 9, 63, 64, 320, PAGE - 1, PAGE + 1, whole / 2 + 1, whole - 513, whole - 1];
        let lengths: Vec<_> = (1..whole.div_ceil(PAGE)).map(|page| page * PAGE).chain(odd).collect();
        let refused = none_hangs("cut", lengths.into_iter(), move |length| {
            original.is_refused(&original.image[..length], &|| format!("cut to {length} of {whole} bytes"))
        });
        assert!(refused > 0, "no cut met anything that is read");
    }
}

#[test]
fn p10_a_file_that_grew_is_refused_or_whole() {
    for is_closed in [true, false] {
        let original = Original::small(is_closed);
        for (more, byte) in [(1, 0), (PAGE, 0), (PAGE, 0xA5), (3 * PAGE + 77, 0xFF), (1024 * 1024, 0)] {
            let mut image = original.image.clone();
            image.resize(image.len() + more, byte);
            original.is_refused(&image, &|| format!("{more} bytes of {byte} more"));
        }
    }
}

/// The page of this number, and the bytes that stand there in `from` put into `image`.
fn put(image: &mut [u8], page: usize, bytes: &[u8]) {
    image[page * PAGE..][..PAGE].copy_from_slice(bytes);
}

fn page(image: &[u8], page: usize) -> &[u8] {
    &image[page * PAGE..][..PAGE]
}

#[test]
fn p10_a_page_that_is_zeroed_or_written_over_is_refused_or_whole() {
    for is_closed in [true, false] {
        let original = Original::small(is_closed);
        let pages = original.image.len() / PAGE;
        let wrongs = (0..pages).flat_map(|at| [0, 0xA5].map(|byte| (at, byte)));
        let refused = none_hangs("written over", wrongs, move |(at, byte)| {
            let mut image = original.image.clone();
            put(&mut image, at, &[byte; PAGE]);
            original.is_refused(&image, &|| format!("page {at} is full of {byte}"))
        });
        assert!(refused > pages / 4, "of {pages} pages only {refused} faults were noticed");
    }
}

#[test]
fn p10_pages_that_are_swapped_or_stand_twice_are_refused_or_whole() {
    for is_closed in [true, false] {
        let original = Original::small(is_closed);
        let pages = original.image.len() / PAGE;
        let stride = if super::is_full() { 1 } else { 23 };
        let pairs = (0..pages).flat_map(move |one| (0..pages).map(move |other| (one, other)));
        let pairs = pairs.filter(|(one, other)| one != other).step_by(stride);
        let tried = pages * (pages - 1) / stride;
        let refused = none_hangs("swapped", pairs, move |(one, other)| {
            let mut image = original.image.clone();
            put(&mut image, one, page(&original.image, other));
            // Half of the time the other one is lost, else they are swapped.
            if one < other {
                put(&mut image, other, page(&original.image, one));
            }
            original.is_refused(&image, &|| format!("page {one} is page {other}"))
        });
        assert!(refused > tried / 4, "of {tried} faults only {refused} were noticed");
    }
}

/// Every page but the first, which tells where the newest commit is: with a whole one of before a file is what it was
/// then, and nothing in it can tell that from a copy that somebody brought back.
#[test]
fn p10_a_page_of_an_earlier_commit_that_is_put_back_is_refused_or_whole() {
    for is_closed in [true, false] {
        let original = Original::small(is_closed);
        let last = original.image.len() / PAGE;
        let stale = original.earlier_images.clone().into_iter().enumerate().flat_map(move |(nth, earlier)| {
            (1..last.min(earlier.len() / PAGE))
                .map(move |at| (nth, at, page(&earlier, at).to_vec()))
                .collect::<Vec<_>>()
        });
        let refused = none_hangs("put back", stale, move |(nth, at, bytes)| {
            let mut image = original.image.clone();
            put(&mut image, at, &bytes);
            original.is_refused(&image, &|| format!("page {at} is the one of before, {nth}"))
        });
        assert!(refused > 0, "no page of before met anything that is read");
    }
}
