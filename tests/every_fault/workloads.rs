//! What a server does, as text: a line is done after the other, and what stands between bars in one line shares a
//! batch. Payloads are given by their number of bytes.

/// Each by its name, for whoever must find out why it failed.
pub(crate) const WORKLOADS: [(&str, &str); 40] = [
    ("nothing but opening", "verify"),
    ("opened twice", "reopen; reopen; verify"),
    ("one claim", "claim a"),
    ("a claim that is let go", "claim a; drop a; claim a"),
    ("a deferred claim", "defer a; list; drop a"),
    ("a deferred claim and its first change", "defer a; advance a 40; complete a 60"),
    ("a deferred claim that ends at once", "defer a; complete a 60; claim a"),
    ("one operation", "claim a; advance a 40; complete a 60; claim a"),
    ("a failure that is replayed", "claim a; fail a 40; claim a; reopen; claim a"),
    ("many claims in one batch", "claim a | claim b | claim c | claim d; complete a 9 | complete b 9 | drop c"),
    (
        "every change in one batch",
        "claim a | claim b | claim c; advance a 40 | complete b 40 | claim d | drop c; forget c",
    ),
    ("the same key twice in one batch", "claim a | claim a; complete a 40"),
    ("released and claimed again", "claim a; advance a 40; release a; claim a; complete a 40"),
    ("reopened in the midst of it", "claim a; advance a 40; reopen; again a; complete a 40; reopen; claim a"),
    ("a large checkpoint", "claim a; advance a 5000; advance a 9000; advance a 10"),
    ("a large outcome", "claim a; complete a 20000; reopen; claim a"),
    ("large and forgotten", "claim a; advance a 5000; drop a; forget a; verify; claim a"),
    ("a very large payload", "claim a; complete a 300000; claim b; complete b 300000"),
    ("a keyed step", "claim a; keyed a charge 40; complete a 60"),
    ("a step at most once", "claim a; once a charge 40; complete a 60"),
    ("a step with a recheck", "claim a; checked a charge 40; complete a 60"),
    ("the three kinds of step", "defer a; keyed a one 40; once a two 2000; checked a three 40; complete a 60"),
    ("a step in doubt that happened", "claim a; doubt a mail; reopen; claim a; checked a mail 50; complete a 60"),
    ("a step in doubt that runs again", "claim a; doubt a mail; drop a; claim a; keyed a mail 3000; advance a 40"),
    (
        "a step in doubt that somebody resolves",
        "claim a; doubt a call; drop a; resolve a call; claim a; once a call 40",
    ),
    ("a checkpoint from outside", "claim a; outside a 40; outside a 3000; refresh a; advance a 40; complete a 9"),
    ("a webhook for what nobody runs", "claim a; drop a; outside a 40; reopen; progress a; again a; complete a 9"),
    ("rows with a checkpoint", "claim a; advance+row a 40; read; advance+row a 3000; reopen; read"),
    ("rows with an outcome", "claim a; complete+row a 40; read; claim b; complete+row b 4000; reopen; read"),
    ("rows of a closure that fails", "claim a | claim b; row-fails a 40 | complete+row b 40; read"),
    ("forgotten and begun anew", "claim a; complete a 40; forget a; claim a; progress a; complete a 50"),
    ("revoked", "claim a; revoke a; claim a; complete a 40"),
    ("an operation that is stuck", "claim a; drop a; claim a; drop a; claim a; drop a; stats; free a; again a"),
    ("those who wait for an outcome", "claim a; wait a; complete a 40; answered a"),
    ("those who wait for their turn", "claim a; wait a; drop a; answered a; complete a 40; reopen; claim a"),
    ("a lease that lapses", "claim a; advance a 40; pass 61; list; take a; complete a 40"),
    ("a lease that is renewed", "claim a; pass 50; renew a; pass 50; claim a; complete a 40"),
    (
        "what retention removes",
        "claim a; complete a 4000; claim b; pass 3600; claim c; claim a; pass 3600; claim c; claim a",
    ),
    (
        "what moves out of the way",
        "claim a | claim b; complete b 40 | drop a; pass 3600; claim c; pass 3600; claim b; verify; reopen; list",
    ),
    (
        "a long life",
        "claim a | defer b; keyed a charge 40; advance+row a 2000; complete a 50; complete b 9; claim c; reopen; \
         again c; fail c 1500; pass 3600; claim d; forget c; pass 3600; claim a; outside a 40; verify; stats",
    ),
];
