//! Files with several faults at once.

use std::env;

use super::none_hangs;
use super::original::{Original, PAGE};
use super::support::Dice;

/// How many files are tried.
fn files() -> usize {
    env::var("REENTRY_DAMAGE_FILES").map_or(300, |files| files.parse().unwrap())
}

fn seed() -> u64 {
    env::var("REENTRY_DAMAGE_SEED").map_or(1, |seed| seed.parse().unwrap())
}

/// Does one fault to the file, and says what it was.
fn harm(image: &mut Vec<u8>, original: &Original, dice: &mut Dice) -> String {
    let at = dice.below(image.len());
    let (page, other) = (at / PAGE * PAGE, dice.below(image.len()) / PAGE * PAGE);
    let sector = at / 512 * 512;
    match dice.below(9) {
        0 | 1 => {
            image[at] ^= 1 << dice.below(8);
            format!("a bit of byte {at}")
        }
        2 => {
            let head = dice.below(PAGE.min(image.len()));
            image[head] ^= 1 << dice.below(8);
            format!("a bit of byte {head}")
        }
        3 => {
            let end = image.len().min(at + 1 + dice.below(64));
            image[at..end].iter_mut().for_each(|byte| *byte = dice.roll().to_le_bytes()[0]);
            format!("bytes {at}..{end}")
        }
        4 => {
            let end = image.len().min(sector + 512);
            image[sector..end].fill(0);
            format!("sector at {sector} zeroed")
        }
        5 if other + PAGE <= image.len() && page + PAGE <= image.len() => {
            let (one, two) = (image[page..][..PAGE].to_vec(), image[other..][..PAGE].to_vec());
            image[page..][..PAGE].copy_from_slice(&two);
            image[other..][..PAGE].copy_from_slice(&one);
            format!("pages at {page} and {other} swapped")
        }
        6 => {
            let earlier = &original.earlier_images[dice.below(original.earlier_images.len())];
            let end = image.len().min(earlier.len()).min(page + PAGE);
            if page == 0 || page >= end {
                return "nothing".to_owned();
            }
            image[page..end].copy_from_slice(&earlier[page..end]);
            format!("page at {page} from before")
        }
        7 if dice.below(4) == 0 => {
            image.truncate(at.max(1));
            format!("cut to {at}")
        }
        _ => {
            let burst = image.len().min(at + 2);
            image[at..burst].fill(0xFF);
            format!("bytes {at}..{burst} set")
        }
    }
}

#[test]
fn p10_files_with_several_faults_are_refused_or_whole() {
    let (files, seed) = (files(), seed());
    println!("seed {seed}");
    for is_closed in [true, false] {
        let original = Original::small(is_closed);
        let refused = none_hangs(&format!("several faults, closed: {is_closed}"), 0..files / 2, move |nth| {
            let mut dice = Dice::new(seed ^ (nth as u64) << 20);
            let mut image = original.image.clone();
            let faults: Vec<_> = (0..2 + dice.below(4)).map(|_| harm(&mut image, &original, &mut dice)).collect();
            let name = || format!("seed {seed}, file {nth}: {faults:?}");
            original.is_refused(&image, &name)
        });
        assert!(refused > files / 8, "of {files} files only {refused} were refused");
    }
}
