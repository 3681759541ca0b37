//! The table: one line a scenario, and the verdict over what was seen in it.

use crate::Result;
use crate::ledger::Count;

/// What the world saw of one customer's orders.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) bank: Count,
    pub(crate) orders: Count,
    pub(crate) mailer: Count,
}

impl Counts {
    /// What `times` orders should leave behind: everything asked for once and done once for each.
    pub(crate) fn once_for_each_of(times: u32) -> Self {
        let each = Count { done: times, asked: times };
        Self { bank: each, orders: each, mailer: each }
    }
}

/// What happened in one scenario, and what should have.
pub(crate) struct Row {
    did: String,
    got: String,
    seen: Counts,
    complaints: Vec<String>,
}

impl Row {
    pub(crate) fn new(did: &str, got: String, seen: Counts, complaint: Option<&str>) -> Self {
        Self { did: did.to_owned(), got, seen, complaints: complaint.into_iter().map(str::to_owned).collect() }
    }

    /// Adds to what the clients got how far the server says that the order got.
    pub(crate) fn and_standing(mut self, standing: &str) -> Self {
        self.got = format!("{}; {standing}", self.got);
        self
    }

    /// Judges the row: the clients must have got exactly this, and the world must have seen exactly this.
    pub(crate) fn expect(mut self, got: &str, wanted: Counts) -> Self {
        if self.got != got {
            self.complaints.push(format!("wanted {got}"));
        }
        let parts = [
            ("charged", "bank", self.seen.bank, wanted.bank),
            ("ordered", "orders table", self.seen.orders, wanted.orders),
            ("mailed", "mailer", self.seen.mailer, wanted.mailer),
        ];
        for (done, part, seen, wanted) in parts {
            if seen.done != wanted.done {
                self.complaints.push(format!("{done} {} times instead of {}", seen.done, wanted.done));
            } else if seen.asked != wanted.asked {
                // Asking again is harmless where the other side knows the id. It is bad all the same: a run that asks
                // for what its checkpoint says is done has not re-entered, it has started anew.
                self.complaints.push(format!("{part} asked {} times instead of {}", seen.asked, wanted.asked));
            }
        }
        self
    }
}

/// The table as it grows on standard output.
pub(crate) struct Table {
    pub(crate) rows: u32,
    pub(crate) bad: u32,
}

const WIDTH_DID: usize = 55;
const WIDTH_GOT: usize = 45;

impl Table {
    /// Begins the table with its head.
    pub(crate) fn begin() -> Self {
        println!("bank, orders and mailer: how often it was done / how often it was asked for\n");
        print_line("what the clients did", "what each got", ["bank", "orders", "mailer"], "verdict");
        print_line(&"-".repeat(WIDTH_DID), &"-".repeat(WIDTH_GOT), ["------"; 3], "-------");
        Self { rows: 0, bad: 0 }
    }

    /// Prints the row of one scenario. A scenario that broke off is a bad row, and the others go on.
    pub(crate) fn add(&mut self, name: &str, row: Result<Row>) {
        self.rows += 1;
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                self.bad += 1;
                return print_line(name, "-", ["-"; 3], &format!("BAD: {error}"));
            }
        };
        let cell = |count: Count| format!("{}/{}", count.done, count.asked);
        let cells = [cell(row.seen.bank), cell(row.seen.orders), cell(row.seen.mailer)];
        let verdict = if row.complaints.is_empty() {
            "ok".to_owned()
        } else {
            self.bad += 1;
            format!("BAD: {}", row.complaints.join(", "))
        };
        print_line(&row.did, &row.got, cells.each_ref().map(String::as_str), &verdict);
    }
}

fn print_line(did: &str, got: &str, [bank, orders, mailer]: [&str; 3], verdict: &str) {
    println!("{did:WIDTH_DID$}  {got:WIDTH_GOT$}  {bank:6}  {orders:6}  {mailer:6}  {verdict}");
}
