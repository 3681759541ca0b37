//! The table: requests, and the answer that each must get.

use super::Conformance;
use super::wire::{WireAnswer, WireRequest};

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Row {
    pub(super) name: &'static str,
    pub(super) section: &'static str,
    pub(super) exchanges: Vec<Exchange>,
    pub(super) is_at_once: bool,
    pub(super) skipped: Option<&'static str>,
}

impl Row {
    /// What it asks for, as the name of a test.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The section of the draft that asks for it; `ext` where it is asked for by what this crate promises beyond.
    pub fn section(&self) -> &'static str {
        self.section
    }
}

/// One request, and the answer that it must get.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    method: &'static str,
    target: String,
    principal: Option<(String, String)>,
    /// The lines of the header, with `*` for what is one key's own.
    keys: Vec<Vec<u8>>,
    content_type: String,
    body: Vec<u8>,
    pub(super) expected: Expected,
}

/// What an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// Of status 2xx, and no repetition.
    Served,
    /// The answer to the request of this number, from 0 on, again.
    Replayed(usize),
    /// An error with this status and code.
    Problem(u16, &'static str),
    /// Nothing of the layer's: neither a repetition nor an error about the key.
    PassedOn,
}

impl Exchange {
    pub(super) fn request(&self, prefix: &str) -> WireRequest {
        let mut headers = vec![("content-type".to_owned(), self.content_type.clone().into_bytes())];
        headers.extend(self.principal.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())));
        for line in &self.keys {
            let parts: Vec<&[u8]> = line.split(|byte| *byte == b'*').collect();
            headers.push(("idempotency-key".to_owned(), parts.join(prefix.as_bytes())));
        }
        WireRequest { method: self.method, target: self.target.clone(), headers, body: self.body.clone() }
    }

    fn keyed(self, line: impl Into<Vec<u8>>) -> Self {
        Self { keys: vec![line.into()], ..self }
    }

    fn gets(self, expected: Expected) -> Self {
        Self { expected, ..self }
    }

    fn at(self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self }
    }

    fn with_body(self, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..self }
    }
}

impl Expected {
    pub(super) fn compare(self, answer: &WireAnswer, answers: &[WireAnswer]) -> Result<(), String> {
        let (status, replayed) = (answer.status, answer.header("idempotent-replayed") == Some(b"true"));
        let about_keys = [400, 409, 410, 413, 422].contains(&status);
        match self {
            Self::Served if (200..300).contains(&status) && !replayed => Ok(()),
            Self::PassedOn if !replayed && !about_keys => Ok(()),
            Self::Replayed(nth) => match answers.get(nth) {
                Some(first) if !replayed => Err(format!("a {status} and no repetition of the {}", first.status)),
                Some(first) if first.status == status && first.body == answer.body => Ok(()),
                _ => Err(format!("a repetition that differs, {status}")),
            },
            Self::Problem(asked, code) if status == asked => is_problem(answer, code),
            _ => Err(format!("{self:?} is asked for, and it got {status}, replayed: {replayed}")),
        }
    }
}

/// Whether an answer is a problem of RFC 9457 with this code, and says when to come again just where that may help.
fn is_problem(answer: &WireAnswer, code: &str) -> Result<(), String> {
    let body = String::from_utf8_lossy(&answer.body).replace(' ', "");
    let is_for_now = ["in_progress", "in_doubt", "unavailable"].contains(&code);
    if answer.header("content-type") != Some(b"application/problem+json") {
        return Err("it is not application/problem+json".to_owned());
    }
    if let Some(missing) = ["\"type\":", "\"title\":", "\"detail\":"].iter().find(|member| !body.contains(**member)) {
        return Err(format!("the problem has no {missing}"));
    }
    if !body.contains(&format!("\"status\":{}", answer.status)) || !body.contains(&format!("\"code\":\"{code}\"")) {
        return Err(format!("the problem has not its status and the code {code}: {body}"));
    }
    if answer.header("retry-after").is_some() != is_for_now {
        return Err(format!("Retry-After is there: {}", !is_for_now));
    }
    Ok(())
}

/// What makes rows.
struct Table<'s> {
    suite: &'s Conformance,
    rows: Vec<Row>,
}

impl Table<'_> {
    /// A request with the suite's body.
    fn post(&self) -> Exchange {
        let suite = self.suite;
        Exchange {
            method: "POST",
            target: suite.path.clone(),
            principal: suite.principals.as_ref().map(|[first, _]| first.clone()),
            keys: Vec::new(),
            content_type: suite.content_type.clone(),
            body: suite.body.clone(),
            expected: Expected::Served,
        }
    }

    fn row(&mut self, name: &'static str, section: &'static str, exchanges: impl IntoIterator<Item = Exchange>) {
        let exchanges = exchanges.into_iter().collect();
        self.rows.push(Row { name, section, exchanges, is_at_once: false, skipped: None });
    }

    fn skip(&mut self, name: &'static str, section: &'static str, why: &'static str) {
        self.rows.push(Row { name, section, exchanges: Vec::new(), is_at_once: false, skipped: Some(why) });
    }

    /// A request whose header must be refused.
    fn malformed(&mut self, name: &'static str, section: &'static str, lines: &[&[u8]]) {
        let keys = lines.iter().map(|line| line.to_vec()).collect();
        let refused = Expected::Problem(400, "key_malformed");
        let exchange = Exchange { keys, ..self.post() }.gets(refused);
        // It was not taken for a key of another form either.
        self.row(name, section, [exchange.clone(), exchange]);
    }

    /// Two headers that are one key.
    fn same_key(&mut self, name: &'static str, section: &'static str, one: &[u8], other: &[u8]) {
        let retry = self.post().keyed(other).gets(Expected::Replayed(0));
        self.row(name, section, [self.post().keyed(one), retry]);
    }
}

pub(super) fn rows(suite: &Conformance) -> Vec<Row> {
    let mut table = Table { suite, rows: Vec::new() };
    scenarios(&mut table);
    syntax(&mut table);
    malformed(&mut table);
    reuse(&mut table);
    at_once(&mut table);
    beyond(&mut table);
    table.rows
}

fn scenarios(table: &mut Table<'_>) {
    let first = table.post().keyed("\"*\"");
    let again = first.clone().gets(Expected::Replayed(0));
    table.row("a_first_request_is_served", "2.6", [first.clone()]);
    table.row("a_retry_gets_the_same_answer", "2.6", [first.clone(), again.clone(), again]);
    table.row("two_keys_are_two_requests", "2.2", [first, table.post().keyed("\"*-2\"")]);
    let bare = table.post();
    if table.suite.is_required {
        let missing = bare.gets(Expected::Problem(400, "key_missing"));
        table.row("a_missing_key_is_refused_where_it_is_required", "2.7", [missing]);
    } else {
        table.row("a_request_without_a_key_is_passed_on_each_time", "2.7", [bare.clone(), bare]);
    }
    let get = Exchange { method: "GET", body: Vec::new(), ..table.post() }.gets(Expected::PassedOn);
    let odd = get.clone().keyed("\"");
    table.row("a_method_that_is_idempotent_by_itself_is_passed_on", "1", [get.clone().keyed("\"*\""), get, odd]);
}

fn syntax(table: &mut Table<'_>) {
    if table.suite.is_strict {
        table.malformed("a_bare_value_is_refused", "2.1", &[b"*"]);
        table.malformed("a_number_is_refused", "2.1", &[b"42"]);
        table.malformed("a_byte_sequence_is_refused", "2.1", &[b":YWJj:"]);
    } else {
        table.same_key("a_bare_value_is_the_same_key_as_its_quoted_form", "ext", b"\"*\"", b"*");
        table.same_key("a_quoted_form_is_the_same_key_as_its_bare_value", "ext", b"*", b"\"*\"");
    }
    table.same_key("parameters_of_a_key_say_nothing", "2.1", b"\"*\"", b"\"*\";a=1;b=\"x\"");
    table.same_key("space_around_a_key_says_nothing", "2.1", b"\"*\"", b"  \"*\" ");
    table.same_key("an_escaped_key_is_replayed", "2.1", br#""*\"\\""#, br#""*\"\\""#);
    let escaped = [table.post().keyed(br#""*\"""#), table.post().keyed(br#""*\\""#)];
    table.row("an_escape_stands_for_one_character", "2.1", escaped);
    // What is one key's own has 20 characters.
    let of_length = |length: usize| [b"\"*", &*vec![b'k'; length - 20], b"\""].concat();
    table.same_key("a_key_of_255_characters_is_replayed", "ext", &of_length(255), &of_length(255));
    table.malformed("a_key_of_256_characters_is_refused", "ext", &[&of_length(256)]);
}

fn malformed(table: &mut Table<'_>) {
    table.malformed("an_empty_string_is_refused", "2.1", &[b"\"\""]);
    table.malformed("a_string_without_its_end_is_refused", "2.1", &[b"\"*"]);
    table.malformed("a_string_without_its_beginning_is_refused", "2.1", &[b"*\""]);
    table.malformed("an_escape_of_nothing_is_refused", "2.1", &[br#""*\""#]);
    table.malformed("an_escape_of_a_letter_is_refused", "2.1", &[br#""*\a""#]);
    table.malformed("a_list_is_refused", "2.1", &[b"\"*\", \"b\""]);
    table.malformed("a_list_of_bare_values_is_refused", "2.1", &[b"*, b"]);
    table.malformed("what_stands_behind_a_string_is_refused", "2.1", &[b"\"*\" b"]);
    table.malformed("an_inner_list_is_refused", "2.1", &[b"(\"*\")"]);
    table.malformed("several_lines_are_refused", "2.1", &[b"\"*\"", b"\"*\""]);
    table.malformed("a_control_character_is_refused", "5", &[b"\"*\t\""]);
    table.malformed("a_character_beyond_ascii_is_refused", "2.1", &["\"*ü\"".as_bytes()]);
}

fn reuse(table: &mut Table<'_>) {
    let (suite, refused) = (table.suite, Expected::Problem(422, "key_reused"));
    let first = table.post().keyed("\"*\"");
    let again = first.clone().gets(Expected::Replayed(0));
    let other = first.clone().with_body(&suite.other_body).gets(refused);
    table.row("a_key_of_another_body_is_refused", "2.7", [first.clone(), other, again.clone()]);
    let query = first.clone().at(&format!("{}?a=b", suite.path)).gets(refused);
    table.row("a_key_of_another_query_is_refused", "2.7", [first.clone(), query, again.clone()]);
    let typed = Exchange { content_type: "application/octet-stream".to_owned(), ..first.clone() }.gets(refused);
    table.row("a_key_of_another_content_type_is_refused", "2.7", [first, typed, again]);
}

fn at_once(table: &mut Table<'_>) {
    let (busy, other) = ("of_two_copies_at_once_one_is_served", "of_two_requests_at_once_one_is_refused_for_good");
    let Some(path) = table.suite.slow_path.as_deref() else {
        table.skip(busy, "2.6", "no slow path was told");
        table.skip(other, "ext", "no slow path was told");
        return;
    };
    let first = table.post().keyed("\"*\"").at(path);
    let busy_copy = first.clone().gets(Expected::Problem(409, "in_progress"));
    table.row(busy, "2.6", [first.clone(), busy_copy]);
    let another = first.clone().with_body(&table.suite.other_body).gets(Expected::Problem(422, "key_reused"));
    table.row(other, "ext", [first, another]);
    table.rows.iter_mut().rev().take(2).for_each(|row| row.is_at_once = true);
}

fn beyond(table: &mut Table<'_>) {
    let suite = table.suite;
    let first = table.post().keyed("\"*\"");
    let name = "a_key_of_another_principal_is_another_key";
    match &suite.principals {
        Some([_, second]) => {
            let other = Exchange { principal: Some(second.clone()), ..first.clone() };
            let other_again = other.clone().gets(Expected::Replayed(1));
            let again = first.clone().gets(Expected::Replayed(0));
            table.row(name, "5", [first.clone(), other, again, other_again]);
        }
        None => table.skip(name, "5", "no principals were told"),
    }
    let name = "a_body_that_is_too_large_is_refused_and_uses_no_key";
    match suite.large_body_bytes {
        Some(bytes) => {
            let large = first.clone().with_body(&vec![b'x'; bytes]).gets(Expected::Problem(413, "request_too_large"));
            table.row(name, "ext", [large, first.clone()]);
        }
        None => table.skip(name, "ext", "no size was told"),
    }
    let name = "an_answer_that_is_streamed_is_given_once";
    match &suite.streamed_path {
        Some(path) => {
            let streamed = first.clone().at(path);
            let gone = streamed.clone().gets(Expected::Problem(409, "replay_unavailable"));
            table.row(name, "ext", [streamed, gone.clone(), gone]);
        }
        None => table.skip(name, "ext", "no streamed path was told"),
    }
}
