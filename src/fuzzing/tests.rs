//! A bounded run of each check, and every file of the corpus: what the fuzzer once found stays found.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{frames, lines, session, settings, urls};

fn corpus(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(&folder).expect("the folder of the target").collect();
    assert!(!files.is_empty(), "{target} has no corpus");
    for file in files {
        check(&fs::read(file.expect("a file").path()).expect("reads"));
    }
}

#[test]
fn the_corpus_holds() {
    corpus("frames", frames);
    corpus("lines", lines);
    corpus("session", session);
    corpus("urls", urls);
    corpus("settings", settings);
}

/// Lines as clients send them, whole, cut and wrong, so that random bytes get past the first brace.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        r#"{"op":"hello","agent":"a","token":"t"}"#,
        r#"{"op":"hello","agent":"é","token":""}"#,
        r#"{"op":"hello","agent":"a","token":"t","window":0,"heartbeat_ms":1}"#,
        r#"{"op":"send","ref":"r","to":"b","type":"data","payload":{"a":[1,"\n"]}}"#,
        r#"{"op":"send","to":"*","type":"alert","priority":11,"payload":1}"#,
        r#"{"op":"ack","tags":[1,2,3,3],"ref":"r"}"#,
        r#"{"op":"ack","tag":18446744073709551615}"#,
        r#"{"op":"nack","tag":4,"outcome":"fail","delay_ms":604800000}"#,
        r#"{"op":"nack","tag":5,"outcome":"dead","reason":"\u0000"}"#,
        r#"{"op":"nack","tag":6,"outcome":"release"}"#,
        r#"{"op":"extend","tag":1,"ms":604800000}"#,
        r#"{"op":"window","n":4294967295}"#,
        r#"{"op":"dead","ref":"r","inbox":"a","limit":0,"after":-1}"#,
        r#"{"op":"dead","inbox":"b"}"#,
        r#"{"op":"redrive","ids":[1,-9223372036854775808]}"#,
        r#"{"op":"purge","ref":"r","inbox":"a","after":9223372036854775807}"#,
        r#"{"op":"ping"}"#,
        r#"{"op":"bye"}"#,
        r#"{"op":"dance","ref":"r"}"#,
        "",
    ]);
    prop_oneof![
        6 => known.clone().prop_map(|l| l.as_bytes().to_vec()),
        1 => (known, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(l, at, byte)| {
            let mut line = l.as_bytes().to_vec();
            let at = at.index(line.len().max(1));
            line.splice(at.min(line.len())..(at + 1).min(line.len()), [byte]);
            line
        }),
        1 => vec(any::<u8>(), 0..40),
    ]
}

/// How the stream is cut, and lines.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    (vec(1u8..60, 0..8), vec(line(), 0..12)).prop_map(|(cuts, lines)| {
        let mut bytes = vec![cuts.len() as u8];
        bytes.extend(cuts);
        bytes.extend(lines.join(&b'\n'));
        bytes
    })
}

proptest! {
    #[test]
    fn a_line_is_a_frame_or_a_refusal(lines in vec(line(), 1..8)) {
        frames(&lines.join(&b'\n'));
    }

    #[test]
    fn lines_do_not_depend_on_the_cuts(stream in stream()) {
        lines(&stream);
    }

    #[test]
    fn a_session_does_not_depend_on_the_cuts(greets in 0u8..2, stream in stream()) {
        session(&[&[greets], &stream[..]].concat());
    }

    #[test]
    fn any_text_is_a_url_or_a_sentence(text in "(postgres://|tcp://)?[ -~é]{0,12}@?[a-z:0-9/?=&%#,\\[\\].]{0,30}") {
        urls(text.as_bytes());
    }

    #[test]
    fn any_settings_are_a_configuration_or_a_sentence(lines in vec((any::<u8>(), "[ -~é]{0,20}"), 0..6)) {
        let lines: Vec<_> = lines.iter().map(|(w, text)| [&[*w][..], text.as_bytes()].concat()).collect();
        settings(&lines.join(&b'\n'));
    }
}
