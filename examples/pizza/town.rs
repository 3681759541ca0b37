//! The town of the scenarios: two banks, a mailer, and one server after the other in the same folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::Result;
use crate::client::{Answer, Client, contradiction, in_words};
use crate::ledger::Count;
use crate::order::Order;
use crate::process::Process;
use crate::table::{Counts, Row};

/// A client that hears nothing for this long gives up. Like every limit here it is for broken builds: it is longer
/// than the server's patience, and no scenario that works waits for it.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The option that says how long a charge may be on its way.
pub(crate) const SETTLE: &str = "--settle-ms";

/// Whose charges the careless bank makes only when it is told to.
pub(crate) const HELD_CUSTOMER: &str = "far-away";

pub(crate) struct Town {
    // Dropped in this order: whoever writes into the folder is gone before the folder is.
    server: Option<Process>,
    /// Charges as often as it is asked. It can be asked what it charged, and most servers here do.
    pub(crate) careless_bank: Process,
    /// Charges once for each id.
    careful_bank: Process,
    mailer: Process,
    http: reqwest::Client,
    /// How many servers were killed so far.
    pub(crate) kills: u32,
    folder: TempDir,
}

impl Town {
    pub(crate) async fn open() -> Result<Self> {
        let folder = TempDir::new().map_err(|error| format!("cannot make a temporary folder: {error}"))?;
        let data = data_argument(folder.path().to_path_buf())?;
        let careless = ["--charges-again", "--holds", HELD_CUSTOMER].map(str::to_owned);
        Ok(Self {
            server: None,
            careless_bank: Process::start("bank", &[data.as_slice(), &careless].concat()).await?,
            careful_bank: Process::start("bank", &data).await?,
            mailer: Process::start("mailer", &data).await?,
            // No connection is kept: the next server may get the port of the one that was killed.
            http: reqwest::Client::builder().pool_max_idle_per_host(0).timeout(ANSWER_MAX).build()?,
            kills: 0,
            folder,
        })
    }

    /// Kills the server that is there with SIGKILL, and starts the next one over what it left on disk.
    pub(crate) async fn next_server(&mut self, options: &[&str]) -> Result<Client> {
        self.next_server_in("usual", options).await
    }

    /// The same at the bank that charges once for each id.
    pub(crate) async fn next_server_at_careful_bank(&mut self, options: &[&str]) -> Result<Client> {
        let bank = self.careful_bank.address()?;
        self.start_server("usual", bank, options).await
    }

    /// The same with a folder of its own, for a server whose store is set up in another way.
    pub(crate) async fn next_server_in(&mut self, folder: &str, options: &[&str]) -> Result<Client> {
        let bank = self.careless_bank.address()?;
        self.start_server(folder, bank, options).await
    }

    async fn start_server(&mut self, folder: &str, bank: SocketAddr, options: &[&str]) -> Result<Client> {
        self.kill_9()?;
        let folder = self.folder.path().join(folder);
        std::fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let mut arguments = data_argument(folder)?;
        arguments.extend(["--bank".to_owned(), bank.to_string()]);
        arguments.extend(["--mailer".to_owned(), self.mailer.address()?.to_string()]);
        if !options.contains(&SETTLE) {
            // Most servers are killed here where nothing is on its way to the bank, so nothing need settle.
            arguments.extend([SETTLE.to_owned(), "0".to_owned()]);
        }
        arguments.extend(options.iter().map(ToString::to_string));
        let server = Process::start("server", &arguments).await?;
        let client = Client { http: self.http.clone(), server: server.address()? };
        self.server = Some(server);
        Ok(client)
    }

    /// The server that was started last.
    pub(crate) fn server(&mut self) -> Result<&mut Process> {
        Ok(self.server.as_mut().ok_or("no server runs")?)
    }

    /// Kills the server, if one runs.
    pub(crate) fn kill_9(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.kill_9()?;
            self.kills += 1;
        }
        Ok(())
    }

    /// Where the servers started with `next_server` keep their store.
    pub(crate) fn store_path(&self) -> PathBuf {
        self.folder.path().join("usual").join("orders.reentry")
    }

    /// What came of `order`: what its clients got, and what bank, orders table and mailer did for its customer.
    pub(crate) async fn row(&mut self, did: &str, order: &Order, answers: &[Option<Answer>]) -> Result<Row> {
        let server = self.server()?.address()?;
        let seen = Counts {
            bank: self.count(self.careless_bank.address()?, order).await?
                + self.count(self.careful_bank.address()?, order).await?,
            orders: self.count(server, order).await?,
            mailer: self.count(self.mailer.address()?, order).await?,
        };
        let mut complaint = contradiction(answers);
        let client = Client { http: self.http.clone(), server };
        for receipt in answers.iter().flatten().filter(|answer| answer.status == 201) {
            if !client.has_row(receipt, order).await? {
                complaint = Some("the orders table has no row for a receipt");
            }
        }
        Ok(Row::new(did, in_words(answers), seen, complaint))
    }

    /// How many rows the orders table has for the customer of `order`.
    pub(crate) async fn rows_of(&mut self, order: &Order) -> Result<u32> {
        let server = self.server()?.address()?;
        Ok(self.count(server, order).await?.done)
    }

    /// The charge that the bank made under this effect id, as an operator asks it.
    pub(crate) async fn charge_of(&self, effect_id: &str) -> Result<Option<String>> {
        let url = format!("http://{}/charges/{effect_id}", self.careless_bank.address()?);
        let response = self.http.get(url).send().await?;
        if response.status().as_u16() == 404 {
            return Ok(None);
        }
        let body: serde_json::Value = response.error_for_status()?.json().await?;
        Ok(body["charge_id"].as_str().map(str::to_owned))
    }

    async fn count(&self, keeper: SocketAddr, order: &Order) -> Result<Count> {
        let url = format!("http://{keeper}/counts/{}", order.customer);
        Ok(self.http.get(url).send().await?.error_for_status()?.json().await?)
    }
}

/// The argument that tells a part where to keep its files.
pub(crate) fn data_argument(folder: PathBuf) -> Result<Vec<String>> {
    let folder = folder.into_os_string().into_string().map_err(|path| format!("{} is not UTF-8", path.display()))?;
    Ok(vec!["--data".to_owned(), folder])
}
