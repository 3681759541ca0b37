//! A real browser without a window, driven over the Chrome `DevTools` Protocol: a dozen calls on a web socket.

use std::collections::HashSet;
use std::io::BufReader;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use super::support::{PATIENCE, next_told};

/// Ends what it starts when nobody holds its input any more, so that no browser outlives a test, killed or not.
const UNTIL_LEFT: &str = "\"$@\" & cat > /dev/null; kill $!; wait $!";

/// One page in one browser of its own.
pub(crate) struct Chromium {
    process: Child,
    socket: WebSocket<TcpStream>,
    session: Option<String>,
    calls: u64,
    /// What the browser told beside its answers, in order.
    events: Vec<Value>,
    _profile: TempDir,
}

impl Chromium {
    /// Starts it; none where it is not installed, which is told.
    pub(crate) fn start() -> Option<Self> {
        let program = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
        let version = Command::new(&program).arg("--version").output();
        if !version.is_ok_and(|version| version.status.success()) {
            println!("skipped: `{program}` is not installed, so no page is shown by a browser");
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new("sh")
            .args(["-c", UNTIL_LEFT, "sh", &program])
            .args([
                "--headless",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-background-networking",
            ])
            // It shows pages of this test alone, and its sandbox needs more rights than a container has.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-port=0", "--lang=en"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(process.stderr.take().unwrap());
        let address = next_told(&mut told, "DevTools listening on ws://").expect("the browser tells where it listens");
        // It must be able to tell more, or it stops.
        std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
        let stream = TcpStream::connect(address.split('/').next().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://{address}"), stream).unwrap();
        let mut browser = Self { process, socket, session: None, calls: 0, events: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", &json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// Calls a method, and gives what it returned.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Value {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": params });
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(call.to_string())).unwrap();
        loop {
            let told = self.hear();
            if told["id"] == self.calls {
                assert!(told["error"].is_null(), "{method}: {}", told["error"]);
                return told["result"].clone();
            }
        }
    }

    /// The next thing it tells; an event is kept.
    fn hear(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.socket.read().expect("the browser answers in time") {
                let told: Value = serde_json::from_str(&text).unwrap();
                if told["id"].is_null() {
                    self.events.push(told.clone());
                }
                return told;
            }
        }
    }

    fn loads(&self) -> usize {
        self.events.iter().filter(|event| event["method"] == "Page.loadEventFired").count()
    }

    /// Does what leads to another page, and returns when that has loaded.
    #[track_caller]
    pub(crate) fn load(&mut self, act: impl FnOnce(&mut Self)) {
        let before = self.loads();
        act(self);
        while self.loads() <= before {
            self.hear();
        }
    }

    #[track_caller]
    pub(crate) fn open(&mut self, url: &str) {
        self.load(|browser| {
            let navigated = browser.call("Page.navigate", &json!({ "url": url }));
            assert!(navigated["errorText"].is_null(), "{url}: {navigated}");
        });
    }

    /// What an expression comes to in the page; a promise, what it is fulfilled with.
    #[track_caller]
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", &params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    #[track_caller]
    pub(crate) fn text(&mut self) -> String {
        self.value("document.body.innerText").as_str().unwrap().to_owned()
    }

    /// Presses a key and lets it go.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            " " => (32, " "),
            _ => panic!("no such key is needed"),
        };
        let down = json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code, "text": text });
        self.call("Input.dispatchKeyEvent", &down);
        let up = json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code });
        self.call("Input.dispatchKeyEvent", &up);
    }

    pub(crate) fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
    }

    /// What it complained of since this was asked last: blocked by the policy, thrown, opened as a dialog, or logged.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // Whatever happened before this answer is told before it.
        self.value("1");
        let complaints =
            ["Log.entryAdded", "Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Runtime.consoleAPICalled"];
        let complaints: HashSet<&str> = complaints.into_iter().collect();
        let (found, kept) = std::mem::take(&mut self.events)
            .into_iter()
            .partition(|event| event["method"].as_str().is_some_and(|method| complaints.contains(method)));
        self.events = kept;
        Vec::into_iter(found).map(|event: Value| event.to_string()).collect()
    }

    /// What the accessibility tree says of the page: role and name of each node that has a role.
    pub(crate) fn accessible(&mut self) -> Vec<(String, String)> {
        let tree = self.call("Accessibility.getFullAXTree", &json!({}));
        let text = |node: &Value, part: &str| node[part]["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] == false);
        nodes.map(|node| (text(node, "role"), text(node, "name"))).collect()
    }

    /// Shows pages in this many pixels, in light or in dark.
    pub(crate) fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &scheme);
    }

    /// A picture of what it shows, as a PNG.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        let picture = self.call("Page.captureScreenshot", &json!({ "format": "png" }));
        data_encoding::BASE64.decode(picture["data"].as_str().unwrap().as_bytes()).unwrap()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().ok();
    }
}
