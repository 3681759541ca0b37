//! Weaves every mutant of a file into it, each behind a question that is answered while a test runs: `is(17)`.
//!
//! Each mutant stands alone. Where one lies within another, the other's version of the code is the plain one.

use std::ops::Range;

use proc_macro2::{LineColumn, Span};
use serde_json::Value;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// One mutant, as cargo-mutants lists it.
#[derive(Debug, Clone)]
pub struct Mutant {
    /// Its place in the list, by which it is asked for.
    pub id: usize,
    pub file: String,
    pub name: String,
    genre: String,
    replacement: String,
    /// Of a function, with its arrow.
    returns: String,
    from: LineColumn,
    to: LineColumn,
}

impl Mutant {
    /// The mutant of this entry of the list.
    pub fn read(id: usize, entry: &Value) -> Option<Self> {
        let text = |name: &str| Some(entry.get(name)?.as_str()?.to_owned());
        let at = |end: &str| {
            let place = entry.get("span")?.get(end)?;
            let figure = |name: &str| usize::try_from(place.get(name)?.as_u64()?).ok();
            Some(LineColumn { line: figure("line")?, column: figure("column")?.checked_sub(1)? })
        };
        let (file, name, genre, replacement) = (text("file")?, text("name")?, text("genre")?, text("replacement")?);
        let returns = entry["function"]["return_type"].as_str().unwrap_or_default().to_owned();
        Some(Self { id, file, name, genre, replacement, returns, from: at("start")?, to: at("end")? })
    }
}

/// What stands in the place of a piece, by the mutant that puts it there.
type Others = Vec<(usize, String)>;

/// A piece of the file that mutants change.
struct Piece {
    range: Range<usize>,
    kind: Kind,
}

enum Kind {
    /// The statements of a function: each mutant returns something else.
    Body(Others),
    /// An expression; each mutant takes another in its place, and they have one type.
    Instead(Others),
    /// The same, of a field that is given by its name alone.
    Field(Others),
    /// The condition of a match's arm: who holds it to be true, who to be false, and by whom the arm is gone.
    Guard { always: Vec<usize>, never: Vec<usize> },
    /// The place behind the pattern of an arm that has no condition.
    Gone(usize),
}

/// The file with these mutants in it, and those that cannot be woven.
pub fn weave(source: &str, mutants: &[Mutant]) -> Result<(String, Vec<usize>), syn::Error> {
    let file = syn::parse_file(source)?;
    let lines = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut finder = Finder { source, lines, mutants, pieces: Vec::new(), woven: Vec::new() };
    finder.bodies();
    finder.visit_file(&file);
    let Finder { mut pieces, woven, .. } = finder;
    // The outer before the inner.
    pieces.sort_by_key(|piece| (piece.range.start, std::cmp::Reverse(piece.range.end)));
    let left = mutants.iter().map(|mutant| mutant.id).filter(|id| !woven.contains(id)).collect();
    Ok((render(source, 0..source.len(), &mut pieces.iter().peekable()), left))
}

fn render(source: &str, range: Range<usize>, pieces: &mut std::iter::Peekable<std::slice::Iter<'_, Piece>>) -> String {
    let (mut text, mut at) = (String::new(), range.start);
    while let Some(piece) = pieces.next_if(|piece| piece.range.start < range.end || piece.range == range) {
        text += &source[at..piece.range.start];
        at = piece.range.end;
        let plain = render(source, piece.range.clone(), pieces);
        text += &piece.kind.around(&plain);
    }
    text + &source[at..range.end]
}

fn is(id: usize) -> String {
    format!("crate::mutant::is({id})")
}

fn any_of(ids: &[usize]) -> String {
    ids.iter().map(|id| is(*id)).collect::<Vec<_>>().join(" || ")
}

impl Kind {
    fn around(&self, plain: &str) -> String {
        match self {
            Self::Body(others) => {
                let other = |(id, other): &(usize, String)| format!("\nif {} {{ return {other}; }}\n", is(*id));
                others.iter().map(other).collect::<String>() + plain
            }
            Self::Instead(others) => {
                let other = |(id, other): &(usize, String)| format!("\nif {} {{ {other} }} else ", is(*id));
                format!("({}{{ {plain} }})", others.iter().map(other).collect::<String>())
            }
            Self::Field(others) => format!("{plain}: {}", Self::Instead(others.clone()).around(plain)),
            Self::Guard { always, never } => {
                let always = if always.is_empty() { "false".to_owned() } else { any_of(always) };
                let never = if never.is_empty() { "false".to_owned() } else { any_of(never) };
                format!("\n!({never}) && ({always} || ({plain}))\n")
            }
            Self::Gone(id) => format!("\n if !{}\n", is(*id)),
        }
    }
}

struct Finder<'s> {
    source: &'s str,
    /// Where each line begins.
    lines: Vec<usize>,
    mutants: &'s [Mutant],
    pieces: Vec<Piece>,
    woven: Vec<usize>,
}

impl<'s> Finder<'s> {
    fn at(&self, place: LineColumn) -> usize {
        let start = self.lines[place.line - 1];
        let line = &self.source[start..];
        start + line.char_indices().nth(place.column).map_or(line.len(), |(at, _)| at)
    }

    fn range(&self, span: Span) -> Range<usize> {
        self.at(span.start())..self.at(span.end())
    }

    fn text(&self, span: Span) -> &'s str {
        &self.source[self.range(span)]
    }

    /// The mutants of this kind that begin where this does.
    fn of(&self, genre: &str, start: LineColumn) -> Vec<&'s Mutant> {
        self.mutants.iter().filter(|mutant| mutant.genre == genre && mutant.from == start).collect()
    }

    fn add(&mut self, range: Range<usize>, kind: Kind) {
        let ids: Vec<usize> = match &kind {
            Kind::Body(others) | Kind::Instead(others) | Kind::Field(others) => {
                others.iter().map(|(id, _)| *id).collect()
            }
            Kind::Guard { always, never } => always.iter().chain(never).copied().collect(),
            Kind::Gone(id) => vec![*id],
        };
        if !ids.is_empty() {
            self.woven.extend(ids);
            self.pieces.push(Piece { range, kind });
        }
    }

    /// What cargo-mutants replaces of a function is all between its braces. One that returns `impl ..` has but one type.
    fn bodies(&mut self) {
        let mut bodies: Vec<(Range<usize>, Others)> = Vec::new();
        let is_woven = |mutant: &&Mutant| mutant.genre == "FnValue" && !mutant.returns.contains("impl ");
        for mutant in self.mutants.iter().filter(is_woven) {
            let range = self.at(mutant.from)..self.at(mutant.to);
            let other = (mutant.id, mutant.replacement.clone());
            match bodies.iter_mut().find(|(known, _)| *known == range) {
                Some((_, others)) => others.push(other),
                None => bodies.push((range, vec![other])),
            }
        }
        for (range, others) in bodies {
            self.add(range, Kind::Body(others));
        }
    }
}

/// Whether an operand is `let .. = ..`, which no parentheses may be put around.
fn has_let(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        if !has_let(&binary.left) && !has_let(&binary.right) {
            let (left, right) = (self.text(binary.left.span()), self.text(binary.right.span()));
            let assigns = self.text(binary.op.span()).ends_with('=')
                && !["==", "!=", "<=", ">="].contains(&self.text(binary.op.span()));
            let other = |mutant: &Mutant| {
                let op = &mutant.replacement;
                let text = if assigns { format!("{left} {op} ({right})") } else { format!("({left}) {op} ({right})") };
                (mutant.id, text)
            };
            let others = self.of("BinaryOperator", binary.op.span().start()).into_iter().map(other).collect();
            self.add(self.range(binary.span()), Kind::Instead(others));
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_unary(&mut self, unary: &'ast syn::ExprUnary) {
        let operand = self.text(unary.expr.span()).to_owned();
        let others = self.of("UnaryOperator", unary.span().start());
        let others = others.into_iter().map(|mutant| (mutant.id, operand.clone())).collect();
        self.add(self.range(unary.span()), Kind::Instead(others));
        visit::visit_expr_unary(self, unary);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let gone: Vec<usize> = self.of("MatchArm", arm.span().start()).iter().map(|mutant| mutant.id).collect();
        if let Some((_, guard)) = &arm.guard {
            let guards = self.of("MatchArmGuard", guard.span().start());
            let by = |value: &str| {
                guards.iter().filter(|mutant| mutant.replacement == value).map(|mutant| mutant.id).collect::<Vec<_>>()
            };
            let (always, mut never) = (by("true"), by("false"));
            never.extend(&gone);
            self.add(self.range(guard.span()), Kind::Guard { always, never });
        } else if let [id] = gone[..] {
            let end = self.at(arm.pat.span().end());
            self.add(end..end, Kind::Gone(id));
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_struct(&mut self, made: &'ast syn::ExprStruct) {
        for field in &made.fields {
            let (Some(rest), syn::Member::Named(name)) = (&made.rest, &field.member) else { continue };
            let others = self.of("StructField", field.span().start());
            let rest = self.text(rest.span()).to_owned();
            let others: Vec<_> = others.into_iter().map(|mutant| (mutant.id, format!("({rest}).{name}"))).collect();
            let of = if field.colon_token.is_some() { Kind::Instead } else { Kind::Field };
            self.add(self.range(field.expr.span()), of(others));
        }
        visit::visit_expr_struct(self, made);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn f(a: bool, b: u8) -> u8 {\n    match b { 1 if !a => 2, _ => b + 1 }\n}\n";

    fn mutant(id: usize, genre: &str, replacement: &str, columns: std::ops::Range<usize>) -> Mutant {
        let [from, to] = [columns.start, columns.end].map(|column| LineColumn { line: 2, column });
        let [file, name, returns] = ["f.rs", "f", "-> u8"].map(str::to_owned);
        let (genre, replacement) = (genre.to_owned(), replacement.to_owned());
        Mutant { id, file, name, genre, replacement, returns, from, to }
    }

    #[test]
    fn each_mutant_stands_behind_its_question_and_beside_the_plain_code() {
        let mutants = [
            mutant(0, "FnValue", "0", 4..40),
            mutant(1, "MatchArmGuard", "true", 19..21),
            mutant(2, "UnaryOperator", "", 19..20),
            mutant(3, "BinaryOperator", "-", 35..36),
        ];
        let (woven, left) = weave(SOURCE, &mutants).unwrap();
        let woven = woven.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(left.is_empty(), "{left:?}");
        for part in [
            "if crate::mutant::is(0) { return 0; } match b",
            "1 if !(false) && (crate::mutant::is(1) || ((",
            "if crate::mutant::is(2) { a } else { !a }",
            "if crate::mutant::is(3) { (b) - (1) } else { b + 1 }",
        ] {
            assert!(woven.contains(part), "{part}: {woven}");
        }
    }

    #[test]
    fn what_has_no_place_in_the_file_is_left() {
        let (woven, left) = weave(SOURCE, &[mutant(7, "BinaryOperator", "-", 4..5)]).unwrap();
        assert_eq!((woven.as_str(), left), (SOURCE, vec![7]));
    }
}
