//! What only looks: nothing here can change a byte.

use std::path::Path;

use reentry::{ErrorKind, Key, Operations, Stats, Store};
use serde_json::json;

use super::args::{Look, Ls, Show, Stat, Verify};
use super::facts;
use super::output::{Done, Failure, Out, count, shown, span, warn};
use super::progress::Bar;

/// Opens what is looked at.
fn open(look: &Look) -> Done<Store> {
    let builder = read(&look.file).attempts_max(look.attempts_max);
    let builder = if look.quick { builder.check(reentry::OpenCheck::Quick) } else { builder };
    if look.skip_damaged {
        return builder.open_damaged(&look.file).map_err(Failure::lost);
    }
    builder.open_to_read(&look.file).map_err(Failure::unreadable)
}

/// What opens a file, telling how far it is.
pub(crate) fn read(file: &Path) -> reentry::Builder {
    let bar = std::fs::metadata(file).is_ok_and(|found| found.len() > 1 << 24).then(|| Bar::new("opening"));
    Store::builder().payload_bytes_max(1 << 30).on_open_progress(move |share| {
        if let Some(bar) = &bar {
            bar.show(share);
        }
    })
}

pub(crate) fn stat(args: &Stat, out: &mut Out) -> Done {
    let store = open(&args.look)?;
    let stats = store.stats()?;
    if args.json {
        out.json(&stat_json(&stats))?;
    } else {
        out.facts(&stat_facts(&stats))?;
    }
    tell_damage(passed_over(&args.look, &store)?)
}

fn stat_facts(stats: &Stats) -> Vec<(&'static str, String)> {
    let oldest = stats.oldest_unfinished.map(|age| format!(", the oldest first claimed {} ago", span(age.as_secs())));
    vec![
        ("operations", count(stats.operations)),
        ("unfinished", format!("{}{}", count(stats.unfinished), oldest.unwrap_or_default())),
        ("in doubt", count(stats.in_doubt)),
        ("stuck", count(stats.stuck)),
        ("completed", count(stats.completed)),
        ("tombstones", count(stats.tombstones)),
        ("kept", format!("{} bytes", count(stats.bytes))),
        ("file", format!("{} bytes", count(stats.disk_bytes))),
        ("format", stats.format.to_string()),
    ]
}

fn stat_json(stats: &Stats) -> serde_json::Value {
    json!({
        "operations": stats.operations,
        "unfinished": stats.unfinished,
        "oldest_unfinished_seconds": stats.oldest_unfinished.map(|age| age.as_secs()),
        "in_doubt": stats.in_doubt,
        "stuck": stats.stuck,
        "completed": stats.completed,
        "tombstones": stats.tombstones,
        "bytes": stats.bytes,
        "file_bytes": stats.disk_bytes,
        "format": stats.format,
    })
}

/// Where damage is passed over it is told, whatever was asked for: how many rows, or runs of rows, are damaged.
fn passed_over(look: &Look, store: &Store) -> Done<u64> {
    if look.skip_damaged { Ok(look_through(store)?[1]) } else { Ok(0) }
}

/// Reads all that is left, and tells what is damaged: how many operations can be read, and how many rows, or runs of
/// rows, cannot.
fn look_through(store: &Store) -> Done<[u64; 2]> {
    let (of, bar) = (store.stats()?.operations, Bar::new("reading what is left"));
    let [mut whole, mut damaged] = [0; 2];
    for progress in store.operations() {
        match progress {
            Ok(_) => whole += 1,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                bar.beside(|| warn(&error.to_string()));
                damaged += 1;
            }
            Err(error) => return Err(error.into()),
        }
        bar.count(whole, of);
    }
    Ok([whole, damaged])
}

pub(crate) fn tell_damage(damaged: u64) -> Done {
    match damaged {
        0 => Ok(()),
        1 => Err(Failure::Refused("1 damaged row, or run of rows, was left out".to_owned())),
        many => Err(Failure::Refused(format!("{} damaged rows, or runs of rows, were left out", count(many)))),
    }
}

pub(crate) fn ls(args: &Ls, out: &mut Out) -> Done {
    let store = open(&args.look)?;
    if !args.json {
        out.line(facts::HEAD)?;
    }
    let (mut listed, mut damaged) = (0, 0);
    for progress in asked_for(&store, args) {
        if args.limit.is_some_and(|limit| listed >= limit) {
            break;
        }
        match progress {
            Ok(progress) if args.json => out.json(&facts::summary(&progress))?,
            Ok(progress) => out.line(facts::line(&progress))?,
            Err(error) if error.kind() == ErrorKind::Corrupt && args.look.skip_damaged => {
                damaged += 1;
                warn(&error.to_string());
                continue;
            }
            Err(error) => return Err(Failure::unreadable(error)),
        }
        listed += 1;
    }
    tell_damage(damaged)
}

fn asked_for(store: &Store, args: &Ls) -> Operations {
    let mut list = store.operations();
    if args.oldest_first {
        list = list.oldest_first();
    }
    if let Some(scope) = &args.scope {
        list = list.of_scope(scope);
    }
    if let Some(checkpoint) = &args.checkpoint {
        list = list.at_checkpoint(checkpoint);
    }
    if args.in_doubt {
        list = list.in_doubt();
    }
    if let Some(age) = args.older_than {
        list = list.older_than(age);
    }
    if let Some(age) = args.younger_than {
        list = list.younger_than(age);
    }
    args.state.iter().fold(list, |list, state| list.in_state(state.state()))
}

pub(crate) fn show(args: &Show, out: &mut Out) -> Done {
    let key = key(&args.scope, &args.key)?;
    let store = open(&args.look)?;
    let Some(progress) = store.progress(&key)? else {
        let hint = if passed_over(&args.look, &store)? > 0 { "; it may have been in what is damaged" } else { "" };
        return Err(Failure::Refused(format!("nothing is known of {}{hint}", named(&key))));
    };
    if args.json {
        out.json(&facts::whole(&progress, args.payload))?;
    } else {
        out.facts(&facts::all(&progress, args.payload))?;
    }
    tell_damage(passed_over(&args.look, &store)?)
}

pub(crate) fn key(scope: &str, key: &str) -> Done<Key> {
    Key::new(scope, key).map_err(|error| Failure::Asked(error.to_string()))
}

/// An operation by its key, for a message.
pub(crate) fn named(key: &Key) -> String {
    format!("key \"{}\" of scope \"{}\"", shown(key.key()), shown(key.scope()))
}

pub(crate) fn verify(args: &Verify, out: &mut Out) -> Done {
    let checked = read(&args.file).open_to_read(&args.file).and_then(|store| {
        let bar = Bar::new("checking");
        Ok((store.verify_with(|share| bar.share(share))?, store.stats()?))
    });
    let (verified, stats) = match checked {
        Err(error) if error.kind() == ErrorKind::Corrupt => return Err(damaged(&args.file, error)),
        checked => checked?,
    };
    out.line(format!("{}: every page, row and rule holds", shown(&args.file.display().to_string())))?;
    let (operations, tombstones) = (count(verified.operations), count(verified.tombstones));
    out.line(format!("{operations} operations, {tombstones} of them tombstones"))?;
    let apart = count(verified.payload_rows);
    out.line(format!("{apart} payloads in rows of their own, {} bytes in all", count(stats.bytes)))
}

/// What a damaged store is told with: every row that cannot be read, then the fault that was found first.
fn damaged(file: &Path, error: reentry::Error) -> Failure {
    let Ok(store) = read(file).open_damaged(file) else { return Failure::lost(error) };
    let [whole, damaged] = match look_through(&store) {
        Ok(counted) => counted,
        Err(failure) => return failure,
    };
    let whole = count(whole);
    warn(&match damaged {
        0 => format!("all {whole} operations can be read"),
        1 => format!("{whole} operations can be read; 1 row, or run of rows, cannot"),
        _ => format!("{whole} operations can be read; {} rows, or runs of rows, cannot", count(damaged)),
    });
    let rest = "restore a copy, or take what is left with `export --skip-damaged`";
    Failure::Refused(format!("{error}\n{rest}"))
}
