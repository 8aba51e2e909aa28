//! What a line is.

use std::{fmt, io};

use plimsoll::log::{JsonLayer, Schema, Writer};
use proptest::prelude::*;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;

use super::{LONG, Memory, logged};

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\\x00-\\x1f\\x7f\\x{80}-\\x{9f}\"\\\\\\x{2028}\\x{202e}{}:,a-z]{0,64}",
        (0_usize..70_000, any::<char>())
            .prop_map(|(length, char)| char.to_string().repeat(length / char.len_utf8())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn nothing_that_is_logged_can_forge_a_line(
        a in hostile(), b in hostile(), c in hostile(), number: i128, float: f64, bytes: Vec<u8>,
    ) {
        let lines = logged(|| {
            let outer = tracing::info_span!("outer", a = b, c, level = a, tab = tracing::field::Empty);
            let _outer = outer.enter();
            let inner = tracing::info_span!("inner\n", c = %b, "odd\"key\u{7f}" = 1);
            let _inner = inner.enter();
            outer.record("tab", c.as_str());
            tracing::info!(a, debug = ?b, display = %c, number, float, bytes = bytes.as_slice(), "{a}{b}");
            tracing::info!(timestamp = a, target = b, message = c, span = 1, truncated = 2, service = 3, level = 4);
        });
        prop_assert_eq!(lines.len(), 2);
        prop_assert_eq!(&lines[0]["level"], "INFO");
        if lines[0].get("truncated").is_none() {
            prop_assert_eq!(&lines[0]["a"], &a);
            prop_assert_eq!(&lines[0]["c"], &b);
            prop_assert_eq!(&lines[0]["tab"], &c);
            prop_assert_eq!(&lines[0]["message"], &format!("{a}{b}"));
            prop_assert_eq!(&lines[0]["number"], &number.to_string());
            prop_assert_eq!(&lines[0]["bytes"], &String::from_utf8_lossy(&bytes).into_owned());
        }
        prop_assert_eq!(&lines[1]["span"], "inner\n");
        prop_assert_eq!(&lines[1]["target"], "log::line");
    }
}

#[test]
fn fields_of_spans_are_on_the_line_and_the_innermost_wins() {
    let lines = logged(|| {
        let outer = tracing::info_span!(
            "outer",
            user = "outer",
            only_outer = 1,
            late = tracing::field::Empty
        );
        let inner = tracing::info_span!(parent: &outer, "inner", user = "inner", late = 0);
        let _entered = inner.enter();
        tracing::info!("before");
        outer.record("only_outer", 2);
        inner.record("late", true);
        tracing::info!(user = "event", "after");
    });
    assert_eq!(lines[0]["user"], "inner");
    assert_eq!(lines[0]["only_outer"], 1);
    assert_eq!(lines[0]["late"], 0);
    assert_eq!(lines[0]["span"], "inner");
    assert_eq!(lines[1]["user"], "event");
    assert_eq!(lines[1]["only_outer"], 2);
    assert_eq!(lines[1]["late"], true);
}

#[test]
fn our_own_names_are_reserved() {
    let lines = logged(|| {
        let span = tracing::info_span!("s", message = "of the span", request_id = "forged");
        let _entered = span.enter();
        tracing::warn!(
            level = "evil",
            timestamp = 0,
            "fields.level" = "worse",
            a = 1,
            a = 2,
            "true message"
        );
    });
    let line = &lines[0];
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fields.level"], "evil");
    assert_eq!(line["fields.fields.level"], "worse");
    assert_eq!(line["fields.timestamp"], 0);
    assert_eq!(line["message"], "true message");
    assert_eq!(line["fields.message"], "of the span");
    assert_eq!(line["fields.request_id"], "forged");
    assert_eq!((&line["a"], &line["fields.a"]), (&1.into(), &2.into()));
}

#[test]
fn a_value_that_panics_or_fails_spoils_only_itself() {
    struct Panics;
    impl fmt::Debug for Panics {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("half \" a")?;
            std::panic::resume_unwind(Box::new("no"))
        }
    }
    struct Fails;
    impl fmt::Debug for Fails {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("half")?;
            Err(fmt::Error)
        }
    }
    let lines = logged(|| {
        tracing::info!(panics = ?Panics, fails = ?Fails, whole = 1, "said");
        tracing::info!("{:?}", Panics);
    });
    assert_eq!(lines[0]["panics"], "<panicked while it was formatted>");
    assert_eq!(lines[0]["fails"], "half<could not be formatted>");
    assert_eq!(lines[0]["whole"], 1);
    assert_eq!(lines[0]["message"], "said");
    assert_eq!(lines[1]["message"], "<panicked while it was formatted>");
}

#[test]
fn errors_show_their_whole_chain() {
    #[derive(Debug)]
    struct Outer(io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("no coffee")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let error = Outer(io::Error::other("no water"));
    let lines = logged(|| tracing::error!(error = &error as &(dyn std::error::Error + 'static)));
    assert_eq!(lines[0]["error"], "no coffee: no water");
}

#[test]
fn stacks_with_filters_and_other_layers() {
    let (memory, other, text) = (Memory::default(), Memory::default(), Memory::default());
    let writer = Writer::new(memory.clone()).expect("a thread");
    let otel = Writer::new(other.clone()).expect("a thread");
    let beside = Writer::new(text.clone()).expect("a thread");
    let subscriber = tracing_subscriber::registry()
        .with(EnvFilter::new("warn,mine=info"))
        .with(JsonLayer::new(writer.clone()))
        .with(JsonLayer::new(otel.clone()).schema(Schema::Otel))
        .with(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(beside.clone()),
        );
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!(target: "mine", "s", a = 1);
        let _entered = span.enter();
        span.record("a", 2);
        tracing::info!(target: "mine", "kept");
        tracing::info!(target: "others", "filtered");
    });
    for each in [&writer, &otel, &beside] {
        each.flush(LONG).expect("written");
        assert_eq!(each.stats().lines(), 1);
    }
    assert_eq!(
        (&memory.lines()[0]["message"], &memory.lines()[0]["a"]),
        (&"kept".into(), &2.into())
    );
    assert_eq!(
        (&other.lines()[0]["body"], &other.lines()[0]["a"]),
        (&"kept".into(), &2.into())
    );
    assert!(text.text().contains("kept"));
}
