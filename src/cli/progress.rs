//! How far a long command is, where somebody sits before it.

use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressStyle};

/// Parts that the whole is told in.
const PARTS: u32 = 1000;

/// A bar on the standard error, which shows where that is a terminal.
#[derive(Debug, Clone)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// A bar for work of which the share is known that is done.
    pub(crate) fn new(what: &'static str) -> Self {
        let bar = ProgressBar::new(PARTS.into()).with_message(what);
        // A style that cannot be read leaves the ordinary one.
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent} %, {eta} left") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// A bar for work of which nobody knows how much it is, told in bytes.
    pub(crate) fn of_bytes(what: &'static str) -> Self {
        let bar = ProgressBar::no_length().with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bytes}, {binary_bytes_per_sec}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is 0 to 1")]
    pub(crate) fn show(&self, share: f64) {
        self.0.set_position((share * f64::from(PARTS)).round() as u64);
    }

    /// The same, for a call that may be broken off, which this never does.
    pub(crate) fn share(&self, share: f64) -> ControlFlow<()> {
        self.show(share);
        ControlFlow::Continue(())
    }

    /// The share that so many of so many are.
    pub(crate) fn count(&self, done: u64, of: u64) {
        self.0.set_position(done.saturating_mul(PARTS.into()).checked_div(of).unwrap_or_default());
    }

    /// Does something that writes beside it, which would else stand in its line.
    pub(crate) fn beside(&self, write: impl FnOnce()) {
        self.0.suspend(write);
    }

    pub(crate) fn bytes(&self, bytes: u64) -> ControlFlow<()> {
        self.0.set_position(bytes);
        ControlFlow::Continue(())
    }
}

/// The last to go takes the bar off the terminal.
impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
