//! What all pages share: their frame, and the files they refer to.

use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::problem::Problem;

/// Seconds after which a page that was asked to loads itself anew, without JavaScript.
const REFRESH: u32 = 5;

/// A file that pages refer to.
pub(super) struct Asset {
    pub(super) path: &'static str,
    pub(super) kind: &'static str,
    pub(super) text: &'static str,
}

pub(super) const ASSETS: [Asset; 3] = [
    Asset { path: "/style.css", kind: "text/css; charset=utf-8", text: include_str!("style.css") },
    Asset { path: "/live.js", kind: "text/javascript; charset=utf-8", text: include_str!("live.js") },
    Asset { path: "/icon.svg", kind: "image/svg+xml", text: include_str!("icon.svg") },
];

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// What a request is answered with.
pub(super) enum Answer {
    Page(Sheet),
    /// A part of a page, for the script that puts it there.
    Part(Markup),
    /// Look there: a link relative to the page that was asked for.
    To(String),
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Page(sheet) => sheet.into_response_as(StatusCode::OK),
            Self::Part(part) => ([(CONTENT_TYPE, HTML)], part.into_string()).into_response(),
            Self::To(place) => match HeaderValue::try_from(place) {
                Ok(place) => (StatusCode::SEE_OTHER, [(LOCATION, place)]).into_response(),
                Err(_) => Problem::broken().into_response(),
            },
        }
    }
}

/// One page in its frame.
pub(super) struct Sheet {
    title: &'static str,
    body: Markup,
    /// Which of the pages in the navigation it is.
    place: &'static str,
    is_live: bool,
    is_refreshed: bool,
}

impl Sheet {
    pub(super) fn new(title: &'static str, body: Markup) -> Self {
        Self { title, body, place: "", is_live: false, is_refreshed: false }
    }

    pub(super) fn at(self, place: &'static str) -> Self {
        Self { place, ..self }
    }

    /// With the script that keeps its numbers those of now; or, without JavaScript, loaded anew every few seconds.
    pub(super) fn live(self, is_refreshed: bool) -> Self {
        Self { is_live: true, is_refreshed, ..self }
    }

    pub(super) fn into_response_as(self, status: StatusCode) -> Response {
        (status, [(CONTENT_TYPE, HTML)], self.document().into_string()).into_response()
    }

    fn document(&self) -> Markup {
        let pages = [("overview", "Overview"), ("operations", "Operations")];
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    @if self.is_refreshed { meta http-equiv="refresh" content=(REFRESH); }
                    title { (self.title) " - reentry" }
                    link rel="icon" href="icon.svg" type="image/svg+xml";
                    link rel="stylesheet" href="style.css";
                    @if self.is_live { script src="live.js" defer {} }
                }
                body {
                    a.skip href="#content" { "Skip to the content" }
                    header {
                        nav aria-label="Pages" {
                            strong { "reentry" }
                            @for (page, name) in pages {
                                a href=(page) aria-current=[(page == self.place).then_some("page")] { (name) }
                            }
                        }
                    }
                    main id="content" tabindex="-1" {
                        h1 { (self.title) }
                        (self.body)
                    }
                }
            }
        }
    }
}
