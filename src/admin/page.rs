//! What a server says of the page, and the router made of it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, OriginalUri, RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

use super::action::{self, Action};
use super::fields::Fields;
use super::frame::{self, Answer};
use super::problem::Problem;
use super::samples::Samples;
use super::token::Secret;
use super::{gate, list, operation, overview};
use crate::error::Result;
use crate::store::Store;

const FORM: &str = "application/x-www-form-urlencoded";

type Hook = dyn Fn(&Parts) -> Access + Send + Sync;

/// What a request may do on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Nothing: it is answered 403, and shown nothing.
    Denied,
    /// Look.
    Read,
    /// Look, and resolve, release, revoke and forget where the page is [writable](Page::writable).
    Write,
}

/// A page that has not been told yet who may see it. No router can be made of it.
#[derive(Debug, Clone, Copy)]
pub enum Unguarded {}

/// A page that knows who may see it.
#[derive(Debug, Clone, Copy)]
pub enum Guarded {}

/// A page for operators, as a router to nest in a server: what is unfinished, in doubt and stuck, how one operation
/// got where it is, and what to do about it.
///
/// It has no login of its own. It is told who may see it, in one of two ways, or makes no router:
///
/// ```
/// use axum::Router;
/// use axum::http::request::Parts;
/// use reentry::Store;
/// use reentry::admin::{Access, Page};
///
/// #[derive(Clone)]
/// struct Operator { may_write: bool }                        // what the authentication outside puts into a request
///
/// let store = Store::builder().in_memory()?;
/// let page = Page::new(&store).writable().authorize(|request: &Parts| match request.extensions.get::<Operator>() {
///     Some(Operator { may_write: true }) => Access::Write,
///     Some(_) => Access::Read,
///     None => Access::Denied,
/// });
/// let routes: Router = Router::new().nest("/admin/operations", page.router()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Without that it does not compile:
///
/// ```compile_fail
/// # let store = reentry::Store::builder().in_memory().unwrap();
/// let routes: axum::Router = reentry::admin::Page::new(&store).router().unwrap();
/// ```
#[must_use = "nothing is served until its router is nested"]
pub struct Page<State = Guarded> {
    settings: Settings,
    state: PhantomData<State>,
}

struct Settings {
    store: Store,
    /// None where everybody who reaches the page may see it.
    hook: Option<Arc<Hook>>,
    is_writable: bool,
    shows_payloads: bool,
}

impl Page<Unguarded> {
    /// A page over this store, once it is told who may see it: [`authorize`](Self::authorize), or
    /// [`unprotected`](Self::unprotected).
    pub fn new(store: &Store) -> Self {
        let settings = Settings { store: store.clone(), hook: None, is_writable: false, shows_payloads: false };
        Self { settings, state: PhantomData }
    }

    /// Asks this what each request may do, every one of them, before anything else is done: by what the server's own
    /// authentication, outside of the page, has established.
    pub fn authorize(self, of_request: impl Fn(&Parts) -> Access + Send + Sync + 'static) -> Page {
        self.guarded(Some(Arc::new(of_request)))
    }

    /// Says that everybody who reaches the page may see it, and write where it is [writable](Self::writable): right
    /// where something in front of it asks who that is, on every address on which it can be reached.
    pub fn unprotected(self) -> Page {
        self.guarded(None)
    }

    fn guarded(self, hook: Option<Arc<Hook>>) -> Page {
        Page { settings: Settings { hook, ..self.settings }, state: PhantomData }
    }
}

/// What a page can be told. Each sets one thing, and says its default.
impl<State> Page<State> {
    /// Lets those who have [`Access::Write`] resolve, release, revoke and forget. Default: nobody; the page only reads.
    pub fn writable(mut self) -> Self {
        self.settings.is_writable = true;
        self
    }

    /// Shows what requests, checkpoints, results and outcomes hold: at most 4 KiB of each. Default: how long they are.
    pub fn show_payloads(mut self) -> Self {
        self.settings.shows_payloads = true;
        self
    }
}

impl Page {
    /// The page's router. Its links are relative, so it can be nested at any path, behind a proxy too.
    ///
    /// What blocks is given to threads that may, where it is served by a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where the operating system has no randomness for the secret behind the
    /// page's forms.
    pub fn router<S: Clone + Send + Sync + 'static>(self) -> Result<Router<S>> {
        let (secret, samples) = (Secret::random()?, Samples::default());
        let console = Arc::new(Console { settings: self.settings, secret, samples });
        // What is charted begins here.
        console.samples.take(&console.settings.store).ok();
        let mut router = Router::new()
            .route("/", get(to_overview))
            .route("/overview", reads(overview::page))
            .route("/live", reads(overview::live))
            .route("/operations", reads(list::page))
            .route("/operation", reads(operation::page));
        for action in Action::ALL {
            router = router.route(&format!("/{}", action.verb()), acts(action));
        }
        for asset in frame::ASSETS {
            let answer = ([(CONTENT_TYPE, asset.kind)], asset.text);
            router = router.route(asset.path, get(move || async move { answer }));
        }
        let router = router.fallback(elsewhere).layer(from_fn_with_state(Arc::clone(&console), gate::pass));
        Ok(router.with_state(console))
    }
}

/// The page while it is served.
pub(super) struct Console {
    settings: Settings,
    pub(super) secret: Secret,
    pub(super) samples: Samples,
}

impl Console {
    /// What a request may do.
    pub(super) fn access(&self, parts: &Parts) -> Access {
        let granted = self.settings.hook.as_ref().map_or(Access::Write, |hook| hook(parts));
        if self.settings.is_writable { granted } else { granted.min(Access::Read) }
    }

    pub(super) fn store(&self) -> &Store {
        &self.settings.store
    }

    pub(super) fn shows_payloads(&self) -> bool {
        self.settings.shows_payloads
    }
}

/// A request that may be answered: on which page, by what right, with what it says.
pub(super) struct Asked {
    pub(super) console: Arc<Console>,
    pub(super) access: Access,
    pub(super) fields: Fields,
}

impl Asked {
    pub(super) fn store(&self) -> &Store {
        self.console.store()
    }

    pub(super) fn may_write(&self) -> bool {
        self.access == Access::Write
    }
}

/// What answers a request.
pub(super) trait Show: Fn(&Asked) -> Result<Answer, Problem> + Copy + Send + Sync + 'static {}

impl<F: Fn(&Asked) -> Result<Answer, Problem> + Copy + Send + Sync + 'static> Show for F {}

/// The route of what only reads.
fn reads(show: impl Show) -> MethodRouter<Arc<Console>> {
    get(move |State(console): State<Arc<Console>>, Extension(access): Extension<Access>, RawQuery(query)| async move {
        let fields = Fields::parse(query.unwrap_or_default().as_bytes());
        answered(Asked { console, access, fields }, show).await
    })
}

/// The route of an action: a form that says what it will do, and the act.
fn acts(action: Action) -> MethodRouter<Arc<Console>> {
    let act = move |asked: &Asked| action::act(asked, action);
    reads(move |asked: &Asked| action::form(asked, action)).post(
        move |State(console): State<Arc<Console>>,
              Extension(access): Extension<Access>,
              headers: HeaderMap,
              body: Result<Bytes, BytesRejection>| async move {
            let is_form = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(FORM.as_bytes()));
            let problem = match body {
                Ok(body) if is_form => {
                    return answered(Asked { console, access, fields: Fields::parse(&body) }, act).await;
                }
                Ok(_) => Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Not a form", "Use the form of this page."),
                Err(rejected) => Problem::new(rejected.status(), "Not taken", rejected.body_text()),
            };
            problem.into_response()
        },
    )
}

/// Reads the store where threads may block.
async fn answered(asked: Asked, show: impl Show) -> Response {
    let answer = move || show(&asked).map_or_else(Problem::into_response, IntoResponse::into_response);
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(answer).await.unwrap_or_else(|_| Problem::broken().into_response()),
        Err(_) => answer(),
    }
}

/// The page's own path ends with the name of a page, so that links beside it are relative.
async fn to_overview(OriginalUri(uri): OriginalUri) -> Response {
    let last = uri.path().rsplit('/').next().unwrap_or_default();
    let place = if last.is_empty() { "overview".to_owned() } else { format!("{last}/overview") };
    Answer::To(place).into_response()
}

async fn elsewhere() -> Response {
    Problem::new(StatusCode::NOT_FOUND, "No such page", "Begin at the overview.").into_response()
}

impl<State> fmt::Debug for Page<State> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { hook, is_writable, shows_payloads, .. } = &self.settings;
        let mut shown = f.debug_struct("Page");
        shown.field("is_authorized", &hook.is_some()).field("is_writable", is_writable);
        shown.field("shows_payloads", shows_payloads).finish_non_exhaustive()
    }
}
