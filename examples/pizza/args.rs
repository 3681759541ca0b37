//! The command line: which part this process plays, and with what.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::kitchen::Charging;
use crate::positions::Position;

pub(crate) const USAGE: &str = "\
Usage: pizza                     run every scenario; the exit status is 0 if nothing was done twice or not at all
       pizza serve [--data DIR]  leave bank, mailer and server running, and print curl lines to try
       pizza --help              print this

The parts, which the two above start by themselves:
       pizza bank   --data DIR [--port N]
                    [--charges-again]    charge as often as it is asked, whatever the id
                    [--holds CUSTOMER]   let the charges of this customer wait for an order from the parent
       pizza mailer --data DIR [--port N]
       pizza server --data DIR --bank ADDR --mailer ADDR [--port N]
                    [--stop-at N]        reach position N (1 to 9) of an order and go no further
                    [--charge HOW]       rechecked (if not given), keyed or at-most-once
                    [--settle-ms N]      how long a charge may be on its way to the bank (2 s if not given)
                    [--no-resume]        leave unfinished orders to their clients' retries
                    [--retention-ms N]   keep outcomes this long (24 h if not given)
                    [--patience-ms N]    let a copy of a request wait this long for the first (5 s if not given)
       --with-parent                     (all parts) read orders from standard input, and end when it ends";

/// The part to play.
pub(crate) enum Role {
    Scenarios,
    ByHand(Option<PathBuf>),
    Server(ServerOptions),
    Bank(BankOptions),
    Mailer(OutsideOptions),
    Help,
}

/// What the server must know.
pub(crate) struct ServerOptions {
    pub(crate) data: PathBuf,
    pub(crate) bank: SocketAddr,
    pub(crate) mailer: SocketAddr,
    pub(crate) port: u16,
    pub(crate) stop_at: Option<Position>,
    pub(crate) charging: Charging,
    pub(crate) settles_within: Option<Duration>,
    pub(crate) resume: bool,
    pub(crate) retention: Option<Duration>,
    pub(crate) patience: Option<Duration>,
    pub(crate) with_parent: bool,
}

/// What the bank and the mailer must know.
pub(crate) struct OutsideOptions {
    pub(crate) data: PathBuf,
    pub(crate) port: u16,
    pub(crate) with_parent: bool,
}

/// What the bank must know.
pub(crate) struct BankOptions {
    pub(crate) outside: OutsideOptions,
    pub(crate) charges_again: bool,
    pub(crate) holds: Option<String>,
}

impl BankOptions {
    /// The name of its ledger: banks of both kinds may keep theirs in one folder.
    pub(crate) fn name(&self) -> &'static str {
        if self.charges_again { "careless-bank" } else { "bank" }
    }
}

impl FromStr for Charging {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "rechecked" => Ok(Self::Rechecked),
            "keyed" => Ok(Self::Keyed),
            "at-most-once" => Ok(Self::AtMostOnce),
            _ => Err("no way to charge"),
        }
    }
}

/// Reads the arguments that follow the program's name, or says in one sentence what is wrong with them.
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Role, String> {
    let mut args = args
        .map(|arg| arg.into_string().map_err(|arg| format!("{} is not UTF-8", arg.display())))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter();
    let Some(role) = args.next() else { return Ok(Role::Scenarios) };
    let mut given = Given(args.collect());
    let role = match role.as_str() {
        "--help" | "-h" | "help" => Role::Help,
        "serve" => Role::ByHand(given.value("--data")?),
        "bank" => Role::Bank(given.bank()?),
        "mailer" => Role::Mailer(given.outside()?),
        "server" => Role::Server(given.server()?),
        unknown => return Err(format!("unknown argument {unknown:?}")),
    };
    // Every option that a role knows was taken out while it was read.
    match given.0.first() {
        None => Ok(role),
        Some(left) => Err(format!("unknown or repeated argument {left:?}")),
    }
}

/// The arguments that nobody has taken yet.
struct Given(Vec<String>);

impl Given {
    fn outside(&mut self) -> Result<OutsideOptions, String> {
        Ok(OutsideOptions {
            data: self.required("--data")?,
            port: self.value("--port")?.unwrap_or(0),
            with_parent: self.flag("--with-parent"),
        })
    }

    fn bank(&mut self) -> Result<BankOptions, String> {
        Ok(BankOptions {
            charges_again: self.flag("--charges-again"),
            holds: self.value("--holds")?,
            outside: self.outside()?,
        })
    }

    fn server(&mut self) -> Result<ServerOptions, String> {
        Ok(ServerOptions {
            data: self.required("--data")?,
            bank: self.required("--bank")?,
            mailer: self.required("--mailer")?,
            port: self.value("--port")?.unwrap_or(0),
            stop_at: self.value("--stop-at")?,
            charging: self.value("--charge")?.unwrap_or(Charging::Rechecked),
            settles_within: self.value("--settle-ms")?.map(Duration::from_millis),
            resume: !self.flag("--no-resume"),
            retention: self.value("--retention-ms")?.map(Duration::from_millis),
            patience: self.value("--patience-ms")?.map(Duration::from_millis),
            with_parent: self.flag("--with-parent"),
        })
    }

    fn flag(&mut self, name: &str) -> bool {
        let at = self.0.iter().position(|arg| arg == name);
        at.map(|at| self.0.remove(at)).is_some()
    }

    fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(at) = self.0.iter().position(|arg| arg == name) else { return Ok(None) };
        if at + 1 >= self.0.len() {
            return Err(format!("{name} needs a value"));
        }
        self.0.remove(at);
        let value = self.0.remove(at);
        value.parse().map(Some).map_err(|_| format!("{value:?} does not fit {name}"))
    }

    fn required<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        self.value(name)?.ok_or_else(|| format!("{name} is missing"))
    }
}
