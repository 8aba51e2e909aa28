use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// What a file says, at its place.
fn read(text: &str) -> Result<Values, ConfigError> {
    let sources = Sources {
        path: Some(PathBuf::from("plimsoll.toml")),
        ..Sources::default()
    };
    sources.values(Some(text), Program::default())
}

#[test]
fn names_are_told_apart_in_the_environment_too() {
    let mut names: Vec<String> = KEYS.iter().map(|key| variable(key.name)).collect();
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(names.iter().all(|name| !OTHERS.contains(&name.as_str())));
}

#[test]
fn defaults_contradict_nothing_and_are_written_as_they_are_read() {
    let values = read("").expect("nothing is set");
    for key in KEYS {
        let shown = values.shown(key.name).to_string();
        assert_eq!(shown, key.default, "{}", key.name);
        assert!(!values.is_set(key.name));
        let again = key
            .kind
            .read(&Written::Plain(shown))
            .expect("it can be read");
        assert_eq!(&again, values.get(key.name));
    }
}

#[test]
fn the_guide_knows_every_setting() {
    let page = include_str!("../../../docs/configuration.md");
    for key in KEYS {
        let row = format!("| `{}` |", key.name);
        let mut rows = page.lines().filter(|line| line.starts_with(&row));
        let row = rows
            .next()
            .unwrap_or_else(|| panic!("{} has no row", key.name));
        assert!(rows.next().is_none(), "{row}");
        assert!(row.contains(&format!("| `{}` |", key.default)), "{row}");
        let effect = row.rsplit("| ").next().expect("columns");
        assert_eq!(effect.starts_with("live"), key.live, "{row}");
        assert_eq!(effect.starts_with("restart"), !key.live, "{row}");
    }
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `") && line.contains('.'));
    let rows = rows.filter(|line| line.ends_with("live |") || line.ends_with("restart |"));
    let more = rows.filter(|line| {
        let name = line.trim_start_matches("| `").split('`').next();
        name.and_then(find).is_none()
    });
    assert_eq!(more.count(), 0, "a row of no setting");
}

/// Also where any text would do: what is meant can only be guessed.
#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt as _;

    let sources = Sources {
        variables: vec![(variable("log.to"), OsString::from_vec(b"/log/\xff".into()))],
        ..Sources::default()
    };
    let error = sources.values(None, Program::default());
    let error = error.expect_err("it is no text");
    assert_eq!(
        error.to_string(),
        "PLIMSOLL_LOG_TO (log.to): it is not UTF-8"
    );
}

#[test]
fn an_empty_variable_is_not_set_and_an_empty_text_is_wrong() {
    let file =
        "[telemetry]\notlp_endpoint = \"http://h\"\n[log]\nfilter = \"warn\"\nto = \"stderr\"\n";
    let all = KEYS.iter().map(|key| (variable(key.name), OsString::new()));
    let sources = Sources {
        path: Some(PathBuf::from("plimsoll.toml")),
        variables: all.collect(),
        ..Sources::default()
    };
    let of = |file| sources.values(file, Program::default()).expect("valid");
    assert!(KEYS.iter().all(|key| !of(None).is_set(key.name)));
    for name in ["telemetry.otlp_endpoint", "log.filter", "log.to"] {
        assert_eq!(
            of(Some(file)).text(name),
            read(file).expect("valid").text(name)
        );
        assert_eq!(of(None).text(name), None);
        let (section, key) = parts(name);
        let error = read(&format!("[{section}]\n{key} = \" \"")).expect_err("it is empty");
        assert_eq!(error.key(), name);
        assert!(error.to_string().contains("expected"), "{error}");
    }
}

fn keys() -> impl Strategy<Value = String> {
    let known: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    prop_oneof![8 => select(known), 1 => "[a-z_]{1,9}\\.[a-z_]{1,9}"]
}

fn texts() -> impl Strategy<Value = String> {
    let some = [
        "true",
        "false",
        "1",
        "0",
        "-1",
        "5",
        "0x10",
        "1e9",
        "inf",
        "nan",
        "1.5",
        "\"1s\"",
        "\"none\"",
        "\"10h\"",
        "\"2 MiB\"",
        "\"adaptive\"",
        "\"peer\"",
        "\"client\"",
        "\"5/s\"",
        "\"1/s and 2/m\"",
        "\"keep\"",
        "\"10.0.0.0/8\"",
        "[]",
        "[\"::1\"]",
        "[1]",
        "{}",
        "{ a = 1 }",
        "1979-05-27",
        "99999999999999999999",
        "\"warn\"",
        "\"debug,x=off\"",
    ];
    let some: Vec<String> = some.map(str::to_owned).into();
    prop_oneof![12 => select(some), 1 => "\\PC{0,12}"]
}

proptest! {
    #[test]
    fn whatever_a_file_says_it_is_taken_or_refused_at_a_line(text in "(\\PC|[\\[\\]=\"\\n.#]){0,200}") {
        check(&text)?;
    }

    #[test]
    fn settings_are_taken_or_refused_at_their_line(settings in vec((keys(), texts()), 0..6)) {
        let text: Vec<String> = settings
            .iter()
            .map(|(key, value)| {
                let (section, name) = parts(key);
                format!("[{section}]\n{name} = {value}\n")
            })
            .collect();
        check(&text.concat())?;
    }

    #[test]
    fn whatever_the_environment_says_it_is_taken_or_refused(key in keys(), value in "\\PC{0,20}") {
        let sources = Sources {
            variables: vec![(variable(&key), value.into())],
            ..Sources::default()
        };
        if let Err(error) = sources.values(None, Program::default()) {
            prop_assert!(error.to_string().contains(&variable(&key)), "{}", error);
        }
    }
}

fn check(text: &str) -> Result<(), TestCaseError> {
    if let Err(error) = read(text) {
        let Origin::File {
            line: Some(line), ..
        } = error.origin()
        else {
            return Err(TestCaseError::fail(format!(
                "nothing else was read: {error}"
            )));
        };
        // An empty file has one line, and an error may stand behind the last.
        let lines = text.matches('\n').count();
        prop_assert!(*line >= 1 && *line <= lines + 1, "{}", error);
    }
    Ok(())
}
