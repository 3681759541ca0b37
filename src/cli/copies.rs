//! Copies of a store, as a file and as lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use reentry::{Exported, Store, check_export};

use super::args::{Backup, Export, Import};
use super::looks::{named, read};
use super::output::{Done, Failure, Out, count, shown, time, warn};
use super::progress::Bar;

pub(crate) fn backup(args: &Backup, out: &mut Out) -> Done {
    let store = read(&args.file).open_to_read(&args.file).map_err(Failure::unreadable)?;
    let bar = Bar::new("copying");
    let made = store.backup_with(&args.copy, move |share| bar.share(share)).map_err(Failure::unreadable)?;
    let copy = shown(&args.copy.display().to_string());
    let (operations, unfinished) = (count(made.operations), count(made.unfinished));
    out.line(format!(
        "{copy}: {operations} operations, {unfinished} of them unfinished, {} bytes, checked",
        count(made.bytes)
    ))
}

pub(crate) fn export(args: &Export, out: &mut Out) -> Done {
    if args.to.is_none() && Out::is_terminal() {
        return Err(Failure::Asked("an export is for programs: name a file, or send it to one".to_owned()));
    }
    let builder = read(&args.file);
    let store = if args.skip_damaged { builder.open_damaged(&args.file) } else { builder.open_to_read(&args.file) };
    let store = store.map_err(Failure::unreadable)?;
    let exported = match &args.to {
        None => {
            let exported = lines(&store, args, out.bytes())?;
            out.flush()?;
            exported
        }
        Some(to) => to_file(to, |file| lines(&store, args, file))?,
    };
    let told = format!("{} operations, as they were {}", count(exported.operations), time(exported.at));
    match args.to {
        Some(_) => out.line(told)?,
        None => warn(&told),
    }
    match exported.damaged {
        0 => Ok(()),
        many => Err(Failure::Refused(format!("{} damaged rows, or runs of rows, were left out", count(many)))),
    }
}

fn lines(store: &Store, args: &Export, to: impl Write) -> Done<Exported> {
    let bar = Bar::new("exporting");
    let progress = |share| bar.share(share);
    let exported = if args.skip_damaged {
        store.export_undamaged(to, progress, |damage| warn(&damage.to_string()))
    } else {
        store.export(to, progress)
    };
    exported.map_err(|error| {
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        let is_unread = source.is_some_and(|source| source.kind() == io::ErrorKind::BrokenPipe);
        if is_unread { Failure::Unread } else { Failure::unreadable(error) }
    })
}

/// Makes a file that its owner alone may read, whole or not at all: it gets its name when it is on disk.
fn to_file<T>(to: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Done<T>) -> Done<T> {
    let failed = |error: io::Error| Failure::Refused(format!("{}: {error}", shown(&to.display().to_string())));
    if fs::symlink_metadata(to).is_ok() {
        return Err(Failure::Refused(format!(
            "{} exists already; name another file",
            shown(&to.display().to_string())
        )));
    }
    let Some(name) = to.file_name() else { return Err(Failure::Asked("the export names no file".to_owned())) };
    let mut creating = name.to_owned();
    creating.push(".creating");
    let creating = to.with_file_name(creating);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = BufWriter::new(options.open(&creating).map_err(failed)?);
    let made = write(&mut file).and_then(|made| {
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed)?;
        // Which replaces nothing, as a renaming would.
        fs::hard_link(&creating, to).or_else(|_| fs::rename(&creating, to)).map_err(failed)?;
        Ok(made)
    });
    drop(fs::remove_file(&creating));
    made
}

pub(crate) fn import(args: &Import, out: &mut Out) -> Done {
    let is_input = args.from == Path::new("-");
    if !is_input {
        // So that one that was cut short changes nothing.
        let bar = Bar::of_bytes("checking the export");
        check_export(source(&args.from)?, |bytes| bar.bytes(bytes))?;
    }
    let from: Box<dyn BufRead> = if is_input { Box::new(io::stdin().lock()) } else { Box::new(source(&args.from)?) };
    let store = read(&args.file).open(&args.file)?;
    let bar = Bar::of_bytes("importing");
    let imported = store.import(
        from,
        |bytes| bar.bytes(bytes),
        |key| {
            if !args.skip_existing {
                warn(&format!("known otherwise, and left as it is: {}", named(key)));
            }
        },
    );
    drop(bar);
    let imported = match (imported, store.close()) {
        (imported, Ok(())) => imported?,
        (_, Err(error)) => return Err(error.into()),
    };
    let (new, same, over) = (count(imported.new), count(imported.same), count(imported.over));
    out.line(format!("{new} operations taken in, {same} known already, {over} over by now"))?;
    match imported.differing {
        0 => Ok(()),
        many if args.skip_existing => out.line(format!("known otherwise, and left alone: {}", count(many))),
        many => Err(Failure::Refused(format!("known otherwise, and left alone: {}", count(many)))),
    }
}

fn source(path: &Path) -> Done<BufReader<File>> {
    let failed = |error: io::Error| Failure::Refused(format!("{}: {error}", shown(&path.display().to_string())));
    Ok(BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?))
}
