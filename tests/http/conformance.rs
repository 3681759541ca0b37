//! The conformance table, row by row by the suite's own client, and all of it by clients that were not written here.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use reentry::testing::conformance::{Client, Conformance, Report, Verdict, WireAnswer, WireRequest};
use reqwest::Method;

use crate::server::{Server, is_replayed, shop};

fn suite() -> Conformance {
    Conformance::of("/orders")
        .principals("authorization", "ada", "bob")
        .slow_path("/slow")
        .streamed_path("/streamed")
        .large_body_bytes(4097)
}

static SHOP: LazyLock<Server> = LazyLock::new(|| shop(|layer| layer));
static STRICT_SHOP: LazyLock<Server> = LazyLock::new(|| shop(|layer| layer.required().strict()));
static LENIENT: LazyLock<Report> = LazyLock::new(|| suite().run(&SHOP.client()));
static STRICT: LazyLock<Report> = LazyLock::new(|| suite().required().strict().run(&STRICT_SHOP.client()));

/// A test for each row, and the names of all.
macro_rules! rows {
    ($($report:ident: $names:ident { $(fn $name:ident() {})* })*) => {
        $(
            const $names: &[&str] = &[$(stringify!($name)),*];

            $(#[test]
            fn $name() {
                let verdict = $report.results().find(|(row, _)| row.name() == stringify!($name));
                assert_eq!(verdict.map(|(_, verdict)| verdict), Some(&Verdict::Passed));
            })*
        )*
    };
}

rows! {
    LENIENT: LENIENT_ROWS {
        fn a_first_request_is_served() {}
        fn a_retry_gets_the_same_answer() {}
        fn two_keys_are_two_requests() {}
        fn a_request_without_a_key_is_passed_on_each_time() {}
        fn a_method_that_is_idempotent_by_itself_is_passed_on() {}
        fn a_bare_value_is_the_same_key_as_its_quoted_form() {}
        fn a_quoted_form_is_the_same_key_as_its_bare_value() {}
        fn parameters_of_a_key_say_nothing() {}
        fn space_around_a_key_says_nothing() {}
        fn an_escaped_key_is_replayed() {}
        fn an_escape_stands_for_one_character() {}
        fn a_key_of_255_characters_is_replayed() {}
        fn a_key_of_256_characters_is_refused() {}
        fn an_empty_string_is_refused() {}
        fn a_string_without_its_end_is_refused() {}
        fn a_string_without_its_beginning_is_refused() {}
        fn an_escape_of_nothing_is_refused() {}
        fn an_escape_of_a_letter_is_refused() {}
        fn a_list_is_refused() {}
        fn a_list_of_bare_values_is_refused() {}
        fn what_stands_behind_a_string_is_refused() {}
        fn an_inner_list_is_refused() {}
        fn several_lines_are_refused() {}
        fn a_control_character_is_refused() {}
        fn a_character_beyond_ascii_is_refused() {}
        fn a_key_of_another_body_is_refused() {}
        fn a_key_of_another_query_is_refused() {}
        fn a_key_of_another_content_type_is_refused() {}
        fn of_two_copies_at_once_one_is_served() {}
        fn of_two_requests_at_once_one_is_refused_for_good() {}
        fn a_key_of_another_principal_is_another_key() {}
        fn a_body_that_is_too_large_is_refused_and_uses_no_key() {}
        fn an_answer_that_is_streamed_is_given_once() {}
    }

    // Those that are not in the other table.
    STRICT: STRICT_ROWS {
        fn a_missing_key_is_refused_where_it_is_required() {}
        fn a_bare_value_is_refused() {}
        fn a_number_is_refused() {}
        fn a_byte_sequence_is_refused() {}
    }
}

#[test]
fn every_row_of_the_table_is_a_test() {
    let names = |report: &'static Report| report.results().map(|(row, _)| row.name());
    assert_eq!(names(&LENIENT).collect::<Vec<_>>(), LENIENT_ROWS);
    let others: Vec<_> = names(&STRICT).filter(|name| !LENIENT_ROWS.contains(name)).collect();
    assert_eq!(others, STRICT_ROWS);
}

#[track_caller]
fn passes(suite: &Conformance, client: &impl Client) {
    let report = suite.run(client);
    assert!(report.is_passed(), "\n{report}");
}

#[test]
fn the_table_holds_where_a_key_is_required_and_syntax_is_strict() {
    assert!(STRICT.is_passed(), "\n{}", *STRICT);
}

/// A table that nothing can fail would prove nothing: a service without the layer fails it.
#[test]
fn a_service_without_the_layer_fails_the_table() {
    let server = shop(|layer| layer.methods([]));
    let suite = Conformance::of("/orders").principals("authorization", "ada", "bob").streamed_path("/streamed");
    let report = suite.run(&server.client());
    let failed = report.results().filter(|(_, verdict)| matches!(verdict, Verdict::Failed(_))).count();
    assert!(failed > 20 && !report.is_passed(), "\n{report}");
    let shown = report.to_string();
    assert_eq!(shown.lines().count(), report.results().count(), "a line for each row");
    assert_eq!(shown.lines().filter(|line| line.contains("FAILED: ")).count(), failed, "\n{report}");
}

/// A service that says that it repeats its answer, and gives another one.
struct Unfaithful<'s> {
    server: &'s Server,
    alter: fn(&mut WireAnswer),
}

impl Client for Unfaithful<'_> {
    fn send(&self, requests: &[WireRequest]) -> io::Result<Vec<WireAnswer>> {
        let mut answers = self.server.client().send(requests)?;
        answers.iter_mut().filter(|answer| is_replayed(answer)).for_each(self.alter);
        Ok(answers)
    }
}

/// Each row that asks for a repetition fails it, and no other.
#[test]
fn a_service_that_repeats_another_body_or_another_status_fails_the_table() {
    let replays = ["a_retry_gets_the_same_answer", "an_escaped_key_is_replayed", "a_key_of_255_characters_is_replayed"];
    let alterations: [fn(&mut WireAnswer); 3] =
        [|answer| answer.body.push(b' '), |answer| answer.body.clear(), |answer| answer.status = 200];
    for alter in alterations {
        let server = shop(|layer| layer);
        let report = suite().run(&Unfaithful { server: &server, alter });
        let verdict = |name: &str| report.results().find(|(row, _)| row.name() == name).unwrap().1;
        for name in replays {
            let differs = matches!(verdict(name), Verdict::Failed(why) if why.contains("a repetition that differs"));
            assert!(differs, "{name}\n{report}");
        }
        for name in ["a_first_request_is_served", "two_keys_are_two_requests", "a_list_is_refused"] {
            assert_eq!(verdict(name), &Verdict::Passed, "{name}\n{report}");
        }
    }
}

/// A service that does not tell its principals apart.
struct Undistinguished<'s>(&'s Server);

impl Client for Undistinguished<'_> {
    fn send(&self, requests: &[WireRequest]) -> io::Result<Vec<WireAnswer>> {
        let mut requests = requests.to_vec();
        let headers = requests.iter_mut().flat_map(|request| &mut request.headers);
        headers.filter(|(name, _)| name == "authorization").for_each(|(_, value)| *value = b"whoever".to_vec());
        self.0.client().send(&requests)
    }
}

#[test]
fn a_service_that_gives_one_principal_the_answer_of_another_fails_that_row_alone() {
    let server = shop(|layer| layer);
    let report = suite().run(&Undistinguished(&server));
    let failed = report.results().filter(|(_, verdict)| matches!(verdict, Verdict::Failed(_)));
    let failed: Vec<_> = failed.map(|(row, _)| row.name()).collect();
    assert_eq!((failed, report.is_passed()), (vec!["a_key_of_another_principal_is_another_key"], false), "\n{report}");
}

/// Whether a program is here. Where it is not, the test says so and passes.
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn is_here(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_here = found.is_ok_and(|status| status.success());
    if !is_here {
        eprintln!("skipped: {program} is not here");
    }
    is_here
}

#[test]
fn the_table_holds_for_curl() {
    if is_here("curl") {
        let server = shop(|layer| layer);
        passes(&suite(), &Curl(server.address.to_string()));
    }
}

struct Curl(String);

impl Curl {
    fn begin(&self, request: &WireRequest) -> io::Result<Child> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--no-keepalive", "--max-time", "60", "--request", request.method]);
        // Without it curl asks first whether it may send a large body.
        curl.args(["--header", "expect:", "--data-binary", "@-"]);
        for (name, value) in &request.headers {
            let line = [name.as_bytes(), b": ", value].concat();
            #[cfg(unix)]
            let line = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(line);
            #[cfg(not(unix))]
            let line = String::from_utf8_lossy(&line).into_owned();
            curl.arg("--header").arg(line);
        }
        curl.arg(format!("http://{}{}", self.0, request.target));
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(&request.body)?;
        }
        Ok(child)
    }
}

impl Client for Curl {
    fn send(&self, requests: &[WireRequest]) -> io::Result<Vec<WireAnswer>> {
        let begun: Vec<Child> = requests.iter().map(|request| self.begin(request)).collect::<io::Result<_>>()?;
        begun.into_iter().map(|child| Ok(parse(&child.wait_with_output()?.stdout))).collect()
    }
}

/// What curl writes: the head, with a body whose chunks are put together already.
fn parse(output: &[u8]) -> WireAnswer {
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("curl got no answer");
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().as_bytes().to_vec())
    };
    WireAnswer { status, headers: lines.map(header).collect(), body: output[end + 4..].to_vec() }
}

#[test]
fn the_table_holds_for_pythons_http_client() {
    if is_here("python3") {
        let server = shop(|layer| layer);
        passes(&suite(), &Python(server.address.to_string()));
    }
}

struct Python(String);

/// Sends one request, read as lines of hexadecimal digits, and writes its answer in the same way.
const PROGRAM: &str = r#"
import http.client, sys
lines = [bytes.fromhex(line) for line in sys.stdin.read().split("\n")]
address, method, target, body = lines[0].decode(), lines[1].decode(), lines[2].decode(), lines[3]
connection = http.client.HTTPConnection(address, timeout=60)
connection.putrequest(method, target)
for name, value in zip(lines[4::2], lines[5::2]):
    connection.putheader(name.decode(), value)
connection.putheader("content-length", str(len(body)))
connection.endheaders(body)
answer = connection.getresponse()
told = [str(answer.status).encode(), answer.read()]
for name, value in answer.getheaders():
    told += [name.lower().encode(), value.encode("latin-1")]
sys.stdout.write("\n".join(part.hex() for part in told))
"#;

impl Client for Python {
    fn send(&self, requests: &[WireRequest]) -> io::Result<Vec<WireAnswer>> {
        let begun: Vec<Child> = requests
            .iter()
            .map(|request| {
                let mut parts = vec![self.0.as_bytes(), request.method.as_bytes(), request.target.as_bytes()];
                parts.push(&request.body);
                parts.extend(request.headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]));
                let lines: Vec<String> = parts.into_iter().map(to_hex).collect();
                let mut python = Command::new("python3");
                let mut child = python.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
                child.stdin.take().unwrap().write_all(lines.join("\n").as_bytes())?;
                Ok(child)
            })
            .collect::<io::Result<_>>()?;
        begun.into_iter().map(python_answer).collect()
    }
}

fn python_answer(mut child: Child) -> io::Result<WireAnswer> {
    let mut told = String::new();
    child.stdout.take().unwrap().read_to_string(&mut told)?;
    child.wait()?;
    let parts: Vec<Vec<u8>> = told.split('\n').map(from_hex).collect();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = parts[2..].chunks(2).map(|pair| (text(&pair[0]), pair[1].clone())).collect();
    Ok(WireAnswer { status: text(&parts[0]).parse().unwrap(), headers, body: parts[1].clone() })
}

fn to_hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

fn from_hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn the_table_holds_for_reqwest() {
    let server = shop(|layer| layer);
    passes(&suite(), &Reqwest { base: format!("http://{}", server.address), server: &server });
}

struct Reqwest<'s> {
    base: String,
    server: &'s Server,
}

impl Client for Reqwest<'_> {
    fn send(&self, requests: &[WireRequest]) -> io::Result<Vec<WireAnswer>> {
        let client = reqwest::Client::new();
        let begun: Vec<_> = requests
            .iter()
            .map(|request| {
                let method = Method::from_bytes(request.method.as_bytes()).unwrap();
                let mut built = client.request(method, format!("{}{}", self.base, request.target));
                for (name, value) in &request.headers {
                    // It sends no header that it was given with space around it.
                    built = built.header(name, value.trim_ascii());
                }
                self.server.runtime.spawn(built.body(request.body.clone()).send())
            })
            .collect();
        begun.into_iter().map(|sent| self.server.runtime.block_on(reqwest_answer(sent))).collect()
    }
}

async fn reqwest_answer(sent: tokio::task::JoinHandle<reqwest::Result<reqwest::Response>>) -> io::Result<WireAnswer> {
    let response = sent.await?.map_err(io::Error::other)?;
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| (name.to_string(), value.as_bytes().to_vec());
    let (status, headers) = (response.status().as_u16(), response.headers().iter().map(header).collect());
    Ok(WireAnswer { status, headers, body: response.bytes().await.map_err(io::Error::other)?.to_vec() })
}
