//! `pizza serve`: bank, mailer and server, left running to be tried by hand.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::Result;
use crate::process::Process;
use crate::town::data_argument;

/// Runs the three until Ctrl-C. The server may be killed and started again meanwhile.
pub(crate) async fn serve(data: Option<PathBuf>) -> Result<()> {
    let folder = match data {
        Some(folder) => folder,
        // Kept, so that the next server finds the orders of this one.
        None => TempDir::new().map_err(|error| format!("cannot make a temporary folder: {error}"))?.keep(),
    };
    std::fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let data = data_argument(folder)?;
    let bank = Process::start("bank", &data).await?;
    let mailer = Process::start("mailer", &data).await?;
    let mut arguments = data.clone();
    arguments.extend(["--bank".to_owned(), bank.address()?.to_string()]);
    arguments.extend(["--mailer".to_owned(), mailer.address()?.to_string()]);
    let mut server = Process::start("server", &arguments).await?;
    arguments.extend(["--port".to_owned(), server.address()?.port().to_string()]);

    let executable = std::env::current_exe()?.display().to_string();
    let words = [executable.as_str(), "server"].into_iter().chain(arguments.iter().map(String::as_str));
    let restart = words.map(quoted).collect::<Vec<_>>().join(" ");
    print_what_to_try(&server, &bank, &mailer, &data[1], &restart)?;

    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            _ = &mut interrupted => break,
            line = server.next_line() => {
                let Some(line) = line else {
                    println!("[server] is dead. Start it again in another terminal, over the same data:\n  {restart}");
                    let _ = (&mut interrupted).await;
                    break;
                };
                println!("[server] {line}");
            }
        }
    }
    println!("\nall stopped; the data stays in {}", data[1]);
    Ok(())
}

/// An argument as a shell takes it, also if it is a path with a blank in it.
fn quoted(argument: &str) -> String {
    if argument.contains(|c: char| c.is_whitespace() || "'\"\\$&;()".contains(c)) {
        format!("'{}'", argument.replace('\'', r"'\''"))
    } else {
        argument.to_owned()
    }
}

fn print_what_to_try(server: &Process, bank: &Process, mailer: &Process, data: &str, restart: &str) -> Result<()> {
    let (at, pid) = (server.address()?, server.id());
    let (bank, mailer) = (bank.address()?, mailer.address()?);
    let order = |key: &str, pizza: &str| {
        format!(
            "curl -i http://{at}/orders -H 'Authorization: Bearer ann' -H 'Idempotency-Key: {key}' \
             --json '{{\"customer\":\"ann\",\"pizza\":\"{pizza}\",\"cents\":990}}'"
        )
    };
    let first = order("key-1", "margherita");
    let other = order("key-1", "funghi");
    let second = order("key-2", "margherita");
    println!(
        "\
server on {at} (process {pid}), bank on {bank}, mailer on {mailer}
data in {data}

An order; the same line again is a retry, and gets the same bytes with Idempotent-Replayed: true:
  {first}
Another order under the same key is rejected (422):
  {other}
The same pizza under another key is another pizza:
  {second}

How far it got, with its steps and their effect ids, and which orders have no outcome:
  curl http://{at}/progress/ann/key-1
  curl http://{at}/unfinished
The order's row, by the order_id of its receipt:
  curl http://{at}/orders/ORDER-ID
What was done / asked for, at the bank, in the orders table, at the mailer:
  curl http://{bank}/counts/ann
  curl http://{at}/counts/ann
  curl http://{mailer}/counts/ann

Kill the server, start it again over the same data, and retry:
  kill -9 {pid}
  {restart}
To have it stop half-way, at one of nine positions, for you to kill it there, add: --stop-at 4
To leave the unfinished order to your retry, add: --no-resume
To charge without recheck, so that the retry finds the charge in doubt (409), add: --charge at-most-once
Then ask the bank by the effect id, and say what you found:
  curl http://{bank}/charges/EFFECT-ID
  curl http://{at}/resolve/ann/key-1 -H 'Content-Type: application/json' \
    -d '{{\"charge_id\":\"charge-...\",\"note\":\"the bank has it\"}}'      (null where it did not happen)

Ctrl-C stops all three."
    );
    Ok(())
}
