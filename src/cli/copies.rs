//! Copies of a store, as a file and as lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use reentry::{Exported, Store, check_export};

use super::args::{Backup, Export, Import};
use super::looks::{named, read, tell_damage};
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
    let store = if args.skip_damaged {
        builder.open_damaged(&args.file).map_err(Failure::lost)?
    } else {
        builder.open_to_read(&args.file).map_err(Failure::unreadable)?
    };
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
    tell_damage(exported.damaged)
}

fn lines(store: &Store, args: &Export, to: impl Write) -> Done<Exported> {
    let bar = Bar::new("exporting");
    let progress = |share| bar.share(share);
    let exported = if args.skip_damaged {
        store.export_undamaged(to, progress, |damage| bar.beside(|| warn(&damage.to_string())))
    } else {
        store.export(to, progress)
    };
    exported.map_err(|error| {
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        let is_unread = source.is_some_and(|source| source.kind() == io::ErrorKind::BrokenPipe);
        if is_unread { Failure::Unread } else { Failure::unreadable(error) }
    })
}

/// Makes a file that its owner alone may read, whole or not at all: it gets its name when it is on disk, and when this
/// returns the name is there too.
fn to_file<T>(to: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Done<T>) -> Done<T> {
    let failed = |error: io::Error| Failure::of_file("write", to, error);
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
    let file = new_file(&creating).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let creating = shown(&creating.display().to_string());
            Failure::Refused(format!(
                "{creating} is in the way: another export is being written there, or was killed; then remove it"
            ))
        }
        _ => failed(error),
    })?;
    // A copy that is made under the same name waits for nobody, and would take what nobody holds. Where there are no
    // locks none is made either.
    drop(file.try_lock());
    let mut file = BufWriter::new(file);
    let made = write(&mut file).and_then(|made| {
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed)?;
        give_name(&creating, to).map_err(failed)?;
        // Nothing is left of what nobody was told of.
        sync_folder(to).inspect_err(|_| drop(fs::remove_file(to))).map_err(failed)?;
        Ok(made)
    });
    drop(fs::remove_file(&creating));
    made
}

/// Makes a file that was not there, which its owner alone may read.
fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Gives a file that is made its name, which never replaces a file that somebody made meanwhile.
fn give_name(creating: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(creating, to) {
        // Not every file system has hard links. A renaming replaces what has the name, so an empty file of ours takes
        // it first.
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {
            drop(new_file(to)?);
            fs::rename(creating, to).inspect_err(|_| drop(fs::remove_file(to)))
        }
        named => named,
    }
}

/// Makes a new name durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or_else(|| Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

pub(crate) fn import(args: &Import, out: &mut Out) -> Done {
    let is_input = args.from == Path::new("-");
    // What comes through a pipe is read once, so it cannot be checked before.
    if !is_input && fs::metadata(&args.from).is_ok_and(|from| from.is_file()) {
        // So that one that was cut short changes nothing.
        let bar = Bar::of_bytes("checking the export");
        let checked = check_export(source(&args.from)?, |bytes| bar.bytes(bytes));
        checked.map_err(|error| Failure::of_file("import", &args.from, format!("{error}\nnothing was taken in")))?;
    }
    let from: Box<dyn BufRead> = if is_input { Box::new(io::stdin().lock()) } else { Box::new(source(&args.from)?) };
    let store = read(&args.file).open(&args.file)?;
    let bar = Bar::of_bytes("importing");
    let imported = store.import(
        from,
        |bytes| bar.bytes(bytes),
        |key| {
            if !args.skip_existing {
                bar.beside(|| warn(&format!("known otherwise, and left as it is: {}", named(key))));
            }
        },
    );
    drop(bar);
    let imported = match (imported, store.close()) {
        (Ok(imported), Ok(())) => imported,
        (Ok(_), Err(error)) => return Err(error.into()),
        (Err(error), _) => {
            let then = "what came before that was taken in; to do it again is harmless";
            return Err(Failure::of_file("import", &args.from, format!("{error}\n{then}")));
        }
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
    let file = File::open(path).map_err(|error| Failure::of_file("read", path, error))?;
    Ok(BufReader::with_capacity(1 << 18, file))
}
