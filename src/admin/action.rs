//! What can be done from the page: a form that says exactly what it will do, and the act itself.
//!
//! Invariant: an act is done only on an operation that is still as its form showed it.

use std::time::Duration;

use axum::http::StatusCode;
use maud::{Markup, html};

use super::fields::{Fields, link_to};
use super::frame::{Answer, Sheet};
use super::operation::subject;
use super::page::Asked;
use super::problem::Problem;
use super::shown;
use crate::key::Key;
use crate::progress::{Progress, State};
use crate::record::Resolution;
use crate::store::Store;

/// How long an act may take before the page answers that it does not know.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Resolve,
    Release,
    Revoke,
    Forget,
}

impl Action {
    pub(super) const ALL: [Self; 4] = [Self::Resolve, Self::Release, Self::Revoke, Self::Forget];

    /// Its name in links.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Release => "release",
            Self::Revoke => "revoke",
            Self::Forget => "forget",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Resolve => "Resolve a step in doubt",
            Self::Release => "Release it",
            Self::Revoke => "Revoke it from its run",
            Self::Forget => "Forget it",
        }
    }

    /// What it will do.
    pub(super) fn meaning(self) -> &'static str {
        match self {
            Self::Resolve => {
                "says what became of the step: it has that result from then on, or runs again when it is asked for"
            }
            Self::Release => "the runs it has had no longer count, so that a resumer tries it again",
            Self::Revoke => {
                "takes the operation from the run that owns it, for an owner that hangs: the operation is unfinished \
                 and free, and every later call of that run fails and changes nothing"
            }
            Self::Forget => {
                "removes all that is known of the key, finished or not, as if it had never been claimed: the next \
                 claim runs it again, whatever happened already"
            }
        }
    }

    /// Whether it can be done to this operation, as it stands.
    pub(super) fn suits(self, progress: &Progress) -> bool {
        match self {
            Self::Resolve => progress.state() != State::Owned && progress.in_doubt().next().is_some(),
            Self::Release => progress.state() == State::Stuck,
            Self::Revoke => progress.state() == State::Owned,
            Self::Forget => progress.state() != State::Owned,
        }
    }

    /// What is told when it is done, by the word that the link back carries.
    pub(super) fn done(word: &str) -> Option<&'static str> {
        Some(match word {
            "resolved" => "Resolved: durable, and kept with the step.",
            "released" => "Released: a resumer tries it again.",
            "revoked" => "Revoked: its run can change nothing any more.",
            "forgotten" => "Forgotten: the next claim runs it again.",
            "late" => "Nothing was left to do: it had changed by itself.",
            _ => return None,
        })
    }
}

/// The operation that a form is about, and its step, as they stand at this moment.
struct Target {
    progress: Progress,
    step: String,
    /// What tells this moment from later ones: which incarnation, which run, which state, and the step's last intent.
    seen: String,
}

impl Target {
    /// What the request is about, where the action suits it.
    fn of(asked: &Asked, action: Action) -> Result<Self, Problem> {
        if !asked.may_write() {
            let text = "This page only reads, or you may only read on it.";
            return Err(Problem::new(StatusCode::FORBIDDEN, "Not allowed", text));
        }
        let progress = subject(asked)?;
        let step = if action == Action::Resolve { asked.fields.get("step") } else { "" }.to_owned();
        let begun =
            progress.in_doubt().find(|in_doubt| in_doubt.name() == step).map(|step| step.begun_at().as_millis());
        if !action.suits(&progress) || (action == Action::Resolve && begun.is_none()) {
            let text = "The operation is not, or no longer, in a state in which that can be done. Look at it anew.";
            return Err(Problem::new(StatusCode::CONFLICT, "Nothing to do", text));
        }
        let (born, run, state) = (progress.position().get(), progress.attempt(), progress.state());
        let seen = format!("{born} {run} {state} {}", begun.unwrap_or_default());
        Ok(Self { progress, step, seen })
    }

    /// What a form's token stands for.
    fn parts<'a>(key: &'a Key, action: Action, step: &'a str, seen: &'a str) -> [&'a str; 5] {
        [action.verb(), key.scope(), key.key(), step, seen]
    }
}

/// The form: what it will do, and to what.
pub(super) fn form(asked: &Asked, action: Action) -> Result<Answer, Problem> {
    Ok(Answer::Page(Sheet::new(action.title(), filled_form(asked, action)?)))
}

/// The form, filled with what was said already.
fn filled_form(asked: &Asked, action: Action) -> Result<Markup, Problem> {
    let Target { progress, step, seen } = Target::of(asked, action)?;
    let key = progress.key();
    let token = asked.console.secret.token(&Target::parts(key, action, &step, &seen));
    let hidden = [("scope", key.scope()), ("key", key.key()), ("step", &step), ("seen", &seen), ("token", &token)];
    Ok(html! {
        p.subject { (shown::key(key)) }
        @if action == Action::Resolve { p {
            "Step " (shown::text(&step)) ", effect id " code { (progress.effect_id(&step)) }
        } }
        p { "This " (action.meaning()) "." }
        form.act method="post" action=(action.verb()) {
            @for (name, value) in hidden { input type="hidden" name=(name) value=(value); }
            @match action {
                Action::Resolve => (resolution_fields(&asked.fields)),
                Action::Forget => label.check {
                    input type="checkbox" name="sure" value="yes" required;
                    " I know that the next claim of this key runs it again"
                },
                Action::Release | Action::Revoke => {}
            }
            p.buttons {
                button.act { (action.title()) }
                " " a href=(link_to("operation", key, &[])) { "Leave it as it is" }
            }
        }
    })
}

fn resolution_fields(said: &Fields) -> Markup {
    let is_said = |name: &str, value: &str| said.get(name) == value;
    html! {
        fieldset {
            legend { "What became of it" }
            label.check {
                input type="radio" name="happened" value="no" required checked[is_said("happened", "no")];
                " It did not happen: the step runs when it is asked for"
            }
            label.check {
                input type="radio" name="happened" value="yes" required checked[is_said("happened", "yes")];
                " It happened, with this result:"
            }
            label { "Result, as the step's type decodes it; nobody checks that"
                // HTML takes the first line's end for no part of it.
                textarea name="result" rows="4" autocomplete="off" spellcheck="false" dir="auto" {
                    "\n" (said.get("result"))
                }
            }
            label { "The result is given as"
                select name="form" {
                    option value="text" { "text, lines ended by LF" }
                    option value="hex" selected[is_said("form", "hex")] { "hexadecimal numbers" }
                }
            }
        }
        label { "Note: who says so, and why; kept with the step"
            input name="note" value=(said.get("note")) required maxlength="1000" autocomplete="off" dir="auto";
        }
    }
}

/// The act.
pub(super) fn act(asked: &Asked, action: Action) -> Result<Answer, Problem> {
    if !asked.may_write() {
        Target::of(asked, action)?;
    }
    let (fields, key) = (&asked.fields, asked.fields.key()?);
    let said = Target::parts(&key, action, fields.get("step"), fields.get("seen"));
    if !asked.console.secret.is_token(fields.get("token"), &said) {
        let text = "The form is not one that this page made for this, or the server was started anew since. Go back, \
                    load the form anew, and send it again. Nothing was done.";
        return Err(Problem::new(StatusCode::FORBIDDEN, "Not a form of this page", text));
    }
    let target = Target::of(asked, action)?;
    if target.seen != fields.get("seen") {
        let text = "The operation has moved since the form was made: nothing was done. Look at it anew.";
        return Err(Problem::new(StatusCode::CONFLICT, "It has moved", text));
    }
    let again = |problem: Problem| problem.with(filled_form(asked, action).ok());
    let done = perform(asked.store(), &target.progress, action, fields).map_err(again)?;
    Ok(Answer::To(link_to("operation", &key, &[("done", done)])))
}

/// Does it, and waits until it is durable.
fn perform(store: &Store, seen: &Progress, action: Action, fields: &Fields) -> Result<&'static str, Problem> {
    let key = seen.key();
    let word = |is_done: bool, word| if is_done { word } else { "late" };
    Ok(match action {
        Action::Resolve => {
            let resolution = resolution(fields)?;
            let in_doubt = seen.in_doubt().find(|step| step.name() == fields.get("step"));
            let step = in_doubt.ok_or_else(|| unsaid("The step is not in doubt."))?;
            // Of the try that was looked at: a run may have begun it anew since.
            let resolved = store.resolve_as_seen(key, step, resolution, fields.get("note"));
            resolved.wait_for(PATIENCE).map(|()| "resolved")?
        }
        Action::Release => word(store.release_stuck(key).wait_for(PATIENCE)?, "released"),
        Action::Revoke => word(store.revoke(key).wait_for(PATIENCE)?, "revoked"),
        Action::Forget if fields.get("sure") == "yes" => word(store.forget(key).wait_for(PATIENCE)?, "forgotten"),
        Action::Forget => return Err(unsaid("Say that you know what it comes to.")),
    })
}

fn resolution(fields: &Fields) -> Result<Resolution, Problem> {
    // Browsers send lines ended by CR LF, whatever was typed.
    let result = fields.get("result").replace("\r\n", "\n");
    match (fields.get("happened"), fields.get("form")) {
        ("no", _) if result.is_empty() => Ok(Resolution::DidNotHappen),
        ("no", _) => Err(unsaid("There is a result, and it is said that it did not happen.")),
        ("yes", "text") => Ok(Resolution::Happened(result.into_bytes())),
        ("yes", "hex") => {
            bytes(&result).map(Resolution::Happened).ok_or_else(|| unsaid("The result is not hexadecimal."))
        }
        _ => Err(unsaid("Say whether it happened.")),
    }
}

fn unsaid(text: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "Not complete", format!("{text} Nothing was done."))
}

/// The bytes that hexadecimal digits say, in pairs, however they are set apart.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16)).collect();
    digits?
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(high * 16 + low).ok(),
            _ => None,
        })
        .collect()
}
