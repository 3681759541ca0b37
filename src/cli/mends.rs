//! What changes a store: each command one thing, told before it is done.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use reentry::{Key, Resolution, Store};

use super::args::{File, OneOperation, Resolve};
use super::facts;
use super::looks::{key, named, read};
use super::output::{Done, Failure, Out, count, shown};

/// Opens a store to change it; one that is not there is not created.
fn open(file: &Path) -> Done<Store> {
    fs::symlink_metadata(file).map_err(|error| Failure::of_file("open", file, error))?;
    Ok(read(file).open(file)?)
}

/// Asks whether to do it, where somebody is there to be asked.
fn confirm(store: &Store, key: &Key, what: &str, yes: bool) -> Done {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Asked(format!("{what}? Nobody is there to be asked: say --yes")));
    }
    let Some(progress) = store.progress(key)? else { return Err(unknown(key)) };
    let mut to = io::stderr().lock();
    write!(to, "{}\n{}\n{what}? [y/N] ", facts::HEAD, facts::line(&progress))?;
    to.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Refused("nothing was done".to_owned())),
    }
}

fn unknown(key: &Key) -> Failure {
    Failure::Refused(format!("nothing is known of {}", named(key)))
}

pub(crate) fn resolve(args: &Resolve, out: &mut Out) -> Done {
    let key = key(&args.scope, &args.key)?;
    let resolution = match &args.happened {
        Some(result) => Resolution::Happened(bytes(result)?),
        None => Resolution::DidNotHappen,
    };
    let said = if args.did_not_happen { "did not happen" } else { "happened" };
    let step = shown(&args.step);
    let store = open(&args.file)?;
    confirm(&store, &key, &format!("say that step \"{step}\" of {} {said}", named(&key)), args.yes)?;
    store.resolve(&key, &args.step, resolution, &args.note).wait()?;
    store.close()?;
    out.line(format!("step \"{step}\" {said}; a run is told when it next asks for it"))
}

/// The bytes of a file, or of the standard input.
fn bytes(path: &Path) -> Done<Vec<u8>> {
    let failed = |error: io::Error| Failure::of_file("read the result from", path, error);
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
        return Ok(bytes);
    }
    fs::read(path).map_err(failed)
}

pub(crate) fn release(args: &OneOperation, out: &mut Out) -> Done {
    let key = key(&args.scope, &args.key)?;
    let store = open(&args.file)?;
    confirm(&store, &key, &format!("let {} be tried again", named(&key)), args.yes)?;
    let had_runs = store.release_stuck(&key).wait()?;
    store.close()?;
    out.line(if had_runs {
        "released: its runs so far no longer count"
    } else {
        "nothing to release: no run of it counts"
    })
}

pub(crate) fn forget(args: &OneOperation, out: &mut Out) -> Done {
    let key = key(&args.scope, &args.key)?;
    let store = open(&args.file)?;
    let what = format!("forget {}, so that its next claim runs it again", named(&key));
    confirm(&store, &key, &what, args.yes)?;
    let was_known = store.forget(&key).wait()?;
    store.close()?;
    if was_known { out.line("forgotten") } else { Err(unknown(&key)) }
}

pub(crate) fn compact(args: &File, out: &mut Out) -> Done {
    let compacted = read(&args.file).compact(&args.file)?;
    out.line(format!("{} bytes before, {} bytes now", count(compacted.bytes_before), count(compacted.bytes_after)))
}

pub(crate) fn migrate(args: &File, out: &mut Out) -> Done {
    let migrated = read(&args.file).migrate(&args.file)?;
    out.line(if migrated.from == migrated.to {
        format!("format {} already: nothing to do", migrated.to)
    } else {
        format!("format {} before, format {} now", migrated.from, migrated.to)
    })
}
