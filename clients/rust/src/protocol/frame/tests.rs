use proptest::prelude::*;

use super::*;
use crate::protocol::limits::{DEAD_IDS_MAX, LOCK_MS_MAX};

fn code(line: &str) -> (ErrorCode, Option<String>) {
    let e = ClientFrame::decode(line.as_bytes()).expect_err("must be refused");
    (e.code, e.reference)
}

#[test]
fn every_refusal_has_its_code_and_keeps_the_ref() {
    use ErrorCode::*;
    assert_eq!(code("").0, BadJson);
    assert_eq!(code("nonsense").0, BadJson);
    assert_eq!(code("[1]").0, BadJson);
    assert_eq!(code("{\"op\":\"ack\"").0, BadJson);
    assert_eq!(code("{}").0, BadField);
    assert_eq!(code(r#"{"op":7}"#).0, BadField);
    assert_eq!(code(r#"{"op":"ack","ref":7,"tag":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"dance","ref":"r1"}"#), (UnknownOp, Some("r1".into())));
    assert_eq!(code(r#"{"op":"ack","ref":"r2"}"#), (BadField, Some("r2".into())));
    assert_eq!(code(r#"{"op":"send","ref":"r3","to":"b","type":"command"}"#), (BadField, Some("r3".into())));
    assert_eq!(code(r#"{"op":"send","to":"b","type":"gossip","payload":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"send","to":"b","type":"data","priority":11,"payload":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"send","to":"","type":"data","payload":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"send","to":"b","type":"data","headers":[],"payload":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"send","to":"b","type":"data","ttl_ms":604800001,"payload":1}"#).0, BadField);
    assert_eq!(code(r#"{"op":"nack","tag":1,"outcome":"shrug"}"#).0, BadField);
    assert_eq!(code(r#"{"op":"begun"}"#).0, BadField);
    assert_eq!(code(r#"{"op":"send","to":"group:g","type":"data","payload":1}"#).0, BadField);
    assert_eq!(code("{\"op\":\"hello\",\"agent\":\"a\\u0000\",\"token\":\"t\"}").0, BadField);
    let hello = |more: &str| code(&format!(r#"{{"op":"hello","agent":"a","token":"t",{more}}}"#)).0;
    assert_eq!(hello(r#""environment":"""#), BadField);
    assert_eq!(hello(r#""version":7"#), BadField);
    assert_eq!(hello(r#""capabilities":"validate""#), BadField);
    assert_eq!(hello("\"capabilities\":{\"k\":[\"\\u0000\"]}"), BadField);
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    assert_eq!(code(&format!(r#"{{"op":"hello","agent":"{long}","token":"t"}}"#)).0, BadField);
}

#[test]
fn unknown_keys_are_ignored_and_defaults_filled_in() {
    let line = br#"{"later":[1],"op":"send","to":"b","type":"data","payload":{"a": 1}}"#;
    let ClientFrame::Send(send) = ClientFrame::decode(line).expect("decodes") else { panic!() };
    assert_eq!(send.priority, Priority::default());
    assert_eq!(send.payload.get(), r#"{"a": 1}"#, "the payload is kept to the byte");
}

#[test]
fn a_pushed_message_reads_back() {
    let body = MsgBody {
        topic: None,
        group: None,
        id: Uuid::nil(),
        from: "a\n",
        message_type: "data",
        priority: 3,
        created_at: "2026-01-01T00:00:00.000000Z",
        correlation_id: None,
        headers: None,
        payload: serde_json::from_str(r#"{"k":[1,2]}"#).expect("json"),
    };
    let mut line = Vec::new();
    push_msg(&mut line, Tag::MAX, u32::MAX, u64::MAX, &body.encode());
    assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1);
    assert!(line.len() - body.encode().len() <= super::super::limits::PUSH_HEAD_BYTES_MAX);
    let Ok(Some(ServerFrame::Msg(msg))) = ServerFrame::decode(line.trim_ascii_end()) else { panic!() };
    assert_eq!((msg.tag, msg.from.as_str(), msg.payload.get()), (Tag::MAX, "a\n", r#"{"k":[1,2]}"#));
}

#[test]
fn a_newer_brokers_op_and_code_do_not_break_a_client() {
    assert!(ServerFrame::decode(br#"{"op":"confetti"}"#).expect("reads").is_none());
    let line = br#"{"op":"error","code":"made_up_later","fatal":true,"message":"m"}"#;
    let Ok(Some(ServerFrame::Error { code, fatal, .. })) = ServerFrame::decode(line) else { panic!() };
    assert_eq!((code, fatal), (ErrorCode::Unknown, true));
}

fn decoded(line: &str) -> ClientFrame {
    ClientFrame::decode(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// Whether each of these is a frame, and as long as it may be: with one more it is none.
#[track_caller]
fn at_most(line: impl Fn(usize) -> String, most: usize) {
    decoded(&line(most));
    assert_eq!(code(&line(most + 1)).0, ErrorCode::BadField);
}

#[test]
fn each_op_is_the_frame_of_its_name_and_reads_back() {
    for line in [
        r#"{"op":"hello","proto":1,"agent":"a","token":"t"}"#,
        r#"{"op":"hello","proto":7,"agent":"a","token":"t","group":"g","capabilities":{"k":["v",1]}}"#,
        r#"{"op":"hello","proto":1,"agent":"a","token":"t","capabilities":["v"]}"#,
        r#"{"op":"send","topic":"a.b","type":"data","priority":5,"headers":{},"payload":1}"#,
        r#"{"op":"send","environment":"e","type":"data","priority":5,"payload":1}"#,
        r#"{"op":"send","group":"g","type":"data","priority":5,"payload":1}"#,
        r#"{"op":"send","to":"b","to_instance":"i","type":"data","priority":5,"payload":1}"#,
        r#"{"op":"subscribe","topic":"a.*"}"#,
        r#"{"op":"unsubscribe","topic":"a.>"}"#,
        r#"{"op":"acquire","key":"k","ttl_ms":1000}"#,
        r#"{"op":"release","key":"k","fence":1,"done":false}"#,
        r#"{"op":"ack","tag":1}"#,
        r#"{"op":"ack","tags":[1,2]}"#,
        r#"{"op":"nack","tag":1,"outcome":"release"}"#,
        r#"{"op":"extend","tag":1,"ms":5}"#,
        r#"{"op":"begun","tag":1}"#,
        r#"{"op":"begun","tags":[1,2]}"#,
        r#"{"op":"window","n":1}"#,
        r#"{"op":"dead","inbox":"a"}"#,
        r#"{"op":"dead"}"#,
        r#"{"op":"redrive","inbox":"a"}"#,
        r#"{"op":"purge","ids":[1]}"#,
        r#"{"op":"ping"}"#,
        r#"{"op":"pong"}"#,
        r#"{"op":"bye"}"#,
    ] {
        let mut again = Vec::new();
        push_line(&mut again, &decoded(line));
        assert_eq!(String::from_utf8(again).expect("text"), format!("{line}\n"));
    }
}

#[test]
fn each_field_has_its_bound() {
    let x = |bytes| "x".repeat(bytes);
    let tags = |n| vec!["1"; n].join(",");
    at_most(|n| format!(r#"{{"op":"hello","agent":"{}","token":"t"}}"#, x(n)), NAME_BYTES_MAX);
    at_most(|n| format!(r#"{{"op":"ping","ref":"{}"}}"#, x(n)), NAME_BYTES_MAX);
    at_most(|n| format!(r#"{{"op":"ack","tags":[{}]}}"#, tags(n)), ACK_TAGS_MAX);
    at_most(|n| format!(r#"{{"op":"ack","tags":[{}]}}"#, tags(n + 1)), ACK_TAGS_MAX - 1);
    at_most(|n| format!(r#"{{"op":"begun","tags":[{}]}}"#, tags(n)), ACK_TAGS_MAX);
    at_most(|n| format!(r#"{{"op":"purge","ids":[{}]}}"#, tags(n)), DEAD_IDS_MAX);
    let week = usize::try_from(DURATION_MS_MAX).expect("fits");
    at_most(|n| format!(r#"{{"op":"extend","tag":1,"ms":{n}}}"#), week);
    at_most(|n| format!(r#"{{"op":"nack","tag":1,"outcome":"fail","delay_ms":{n}}}"#), week);
    let hour = usize::try_from(LOCK_MS_MAX).expect("fits");
    at_most(|n| format!(r#"{{"op":"acquire","key":"k","ttl_ms":{n}}}"#), hour);
}

#[test]
fn a_frame_that_names_nothing_or_two_things_is_refused() {
    for line in [
        r#"{"op":"acquire","key":"k","ttl_ms":999}"#,
        r#"{"op":"acquire","key":"","ttl_ms":1000}"#,
        r#"{"op":"release","key":"","fence":1}"#,
        r#"{"op":"subscribe","topic":"a..b"}"#,
        r#"{"op":"unsubscribe","topic":""}"#,
        r#"{"op":"ack","tags":[]}"#,
        r#"{"op":"begun","tags":[]}"#,
        r#"{"op":"dead","inbox":""}"#,
        r#"{"op":"redrive"}"#,
        r#"{"op":"purge"}"#,
        r#"{"op":"purge","inbox":""}"#,
        r#"{"op":"redrive","inbox":"a","ids":[1]}"#,
        r#"{"op":"send","type":"data","payload":1}"#,
        r#"{"op":"send","to":"b","topic":"t","type":"data","payload":1}"#,
        r#"{"op":"send","topic":"t.*","type":"data","payload":1}"#,
        r#"{"op":"send","environment":"","type":"data","payload":1}"#,
        r#"{"op":"send","group":"","type":"data","payload":1}"#,
        r#"{"op":"send","to":"*","to_instance":"i","type":"data","payload":1}"#,
        r#"{"op":"send","topic":"t","to_instance":"i","type":"data","payload":1}"#,
        r#"{"op":"hello","agent":"group:g","token":"t"}"#,
        r#"{"op":"hello","agent":"a","token":"t","group":""}"#,
    ] {
        assert_eq!(code(line).0, ErrorCode::BadField, "{line}");
    }
    let id = Uuid::nil();
    decoded(&format!(r#"{{"op":"hello","agent":"group:g","token":"t","broker":"{id}"}}"#));
    let ClientFrame::Hello(hello) = decoded(r#"{"op":"hello","agent":"a","token":"t"}"#) else { panic!() };
    assert_eq!(hello.proto, PROTO, "who does not say a version speaks the first");
}

#[test]
fn a_line_of_a_broker_reads_back() {
    let id = Uuid::nil();
    let lines = [
        r#"{"op":"welcome","proto":1,"broker":"b","session":2,"limits":{"line_bytes":3,"payload_bytes":4,"window":5},"heartbeat_ms":6}"#.to_owned(),
        format!(r#"{{"op":"sent","ref":"r","id":"{id}"}}"#),
        r#"{"op":"acked","ref":"r"}"#.to_owned(),
        r#"{"op":"subscribed","topic":"a.*"}"#.to_owned(),
        r#"{"op":"unsubscribed","topic":"a.*"}"#.to_owned(),
        r#"{"op":"lock","key":"k","held":true,"fence":1}"#.to_owned(),
        r#"{"op":"released","key":"k"}"#.to_owned(),
        r#"{"op":"dead_letters","letters":[],"more":false}"#.to_owned(),
        r#"{"op":"redriven","count":1,"more":true}"#.to_owned(),
        r#"{"op":"purged","count":1,"more":false}"#.to_owned(),
        r#"{"op":"error","code":"busy","fatal":true,"ref":"r","retry_ms":1,"message":"m"}"#.to_owned(),
        r#"{"op":"drain","after_ms":1}"#.to_owned(),
        r#"{"op":"ping"}"#.to_owned(),
        r#"{"op":"pong"}"#.to_owned(),
    ];
    for line in lines {
        let frame = ServerFrame::decode(line.as_bytes()).expect("reads").expect("is known");
        let mut again = Vec::new();
        push_line(&mut again, &frame);
        assert_eq!(String::from_utf8(again).expect("text"), format!("{line}\n"));
    }
}

#[test]
fn a_pushed_message_is_passed_on_with_another_tag() {
    let mut line = Vec::new();
    push_msg(&mut line, Tag(12), 3, 4, b"\"id\":1}");
    let tagged = retag_msg(line.trim_ascii_end(), Tag(7)).expect("a msg");
    let mut wanted = Vec::new();
    push_msg(&mut wanted, Tag(7), 3, 4, b"\"id\":1}");
    assert_eq!(tagged, wanted);
    assert_eq!(retag_msg(br#"{"op":"ping"}"#, Tag(7)), None);
    assert_eq!(retag_msg(br#"{"op":"msg","tag":"1","attempt":1}"#, Tag(7)), None);
}

#[test]
fn a_tag_and_a_rank_are_bare_numbers_on_the_line() {
    for line in [
        r#"{"op":"ack","tag":18446744073709551615}"#,
        r#"{"op":"begun","tags":[0,1]}"#,
        r#"{"op":"hello","proto":1,"agent":"a","token":"t","rank":-9223372036854775808}"#,
    ] {
        let frame = ClientFrame::decode(line.as_bytes()).expect("decodes");
        let mut again = Vec::new();
        push_line(&mut again, &frame);
        assert_eq!(String::from_utf8(again).expect("text"), format!("{line}\n"));
    }
    for value in ["-1", "18446744073709551616", "1.5", "1e1", "\"1\"", "[1]", "{\"0\":1}", "true"] {
        let refused = ClientFrame::decode(format!(r#"{{"op":"extend","tag":{value},"ms":1}}"#).as_bytes());
        assert_eq!(refused.expect_err(value).code, ErrorCode::BadField, "{value}");
    }
}

#[test]
fn an_error_says_whether_it_is_the_end() {
    for (error_code, is_fatal) in [(ErrorCode::Busy, true), (ErrorCode::BadField, false)] {
        let wait = std::time::Duration::from_micros(1_001);
        let error = ProtocolError::new(error_code, "m").for_ref(Some("r".to_owned())).retry_after(wait);
        let ServerFrame::Error { code, fatal, reference, retry_ms, message } = error.into() else { panic!() };
        assert_eq!((code, fatal, retry_ms), (error_code, is_fatal, Some(2)));
        assert_eq!((reference.as_deref(), message.as_str()), (Some("r"), "m"));
    }
    assert_eq!(ErrorCode::Busy.to_string(), "busy");
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>().prop_filter("zero", |c| *c != '\0'), 1..20)
        .prop_map(|c| c.into_iter().collect())
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = ClientFrame::decode(&bytes);
        let _ = ServerFrame::decode(&bytes);
    }

    #[test]
    fn what_a_client_writes_a_broker_reads(
        to in text(), reference in proptest::option::of(text()), key in proptest::option::of(text()),
        priority in 1i64..=10, delay in proptest::option::of(0u64..DURATION_MS_MAX), payload in text(),
        tags in proptest::collection::vec(any::<u64>().prop_map(Tag), 1..50),
    ) {
        let payload = serde_json::value::to_raw_value(&payload).expect("json");
        let frame = ClientFrame::Send(Send {
            reference, to: Some(to), topic: None, environment: None, group: None, to_instance: None, ordering_key: None, message_type: MessageType::Query, priority: Priority::new(priority).expect("in range"),
            delay_ms: delay, ttl_ms: None, dedupe_key: key, correlation_id: None, headers: None, payload,
        });
        for frame in [frame, ClientFrame::Ack(Ack { tag: None, tags, reference: None })] {
            let mut line = Vec::new();
            push_line(&mut line, &frame);
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(!line.contains(&b'\n'), "a frame is one line");
            let back = ClientFrame::decode(&line).expect("decodes");
            let mut again = Vec::new();
            push_line(&mut again, &back);
            again.pop();
            prop_assert_eq!(line, again);
        }
    }
}
