use super::*;

fn object(kind: &str, parent: &str, name: &str, definition: &str) -> Object {
    let own = str::to_owned;
    Object {
        kind: own(kind),
        parent: own(parent),
        name: own(name),
        definition: own(definition),
        remake: String::new(),
    }
}

fn compared(needed: Vec<Object>, found: &[Object]) -> Vec<String> {
    let needed: &'static [Object] = needed.leak();
    compare(needed, found).iter().map(Difference::sentence).collect()
}

#[test]
fn the_list_is_there() {
    assert!(needed().len() > 100);
    for kind in [
        "type",
        "sequence",
        "function",
        "table",
        "column",
        "constraint",
        "index",
        "index by",
        "key",
        "view",
        "trigger",
    ] {
        assert!(needed().iter().any(|o| o.kind == kind), "{kind}");
    }
}

#[test]
fn of_a_missing_table_one_thing_is_said() {
    let needed = vec![
        object("table", "postbell", "postbell.leases", ""),
        object("column", "postbell.leases", "inbox", "text not null"),
        object("index", "postbell.leases", "leases_broker", "x"),
    ];
    assert_eq!(compared(needed.clone(), &[]), ["table postbell.leases is missing"]);
    assert_eq!(compared(needed.clone(), &needed[..2]), ["index leases_broker on postbell.leases is missing"]);
    assert_eq!(compared(needed.clone(), &needed), [""; 0]);
}

#[test]
fn a_users_column_may_be_looser_and_no_stricter() {
    let table = object("table", "", "agent_messages", "");
    for (needed, found, is_right) in [
        ("text must be given", "text", true),
        ("text", "text must be given", false),
        ("text", "text default 'x'::text", false),
        ("uuid has a default", "uuid must be given", false),
        ("text has a default", "text", true),
        ("text", "bigint", false),
        ("text", "text generated", false),
    ] {
        let of = |definition| vec![table.clone(), object("column", "agent_messages", "topic", definition)];
        assert_eq!(compared(of(needed), &of(found)).is_empty(), is_right, "{needed} / {found}");
    }
}

#[test]
fn a_disabled_trigger_is_called_so() {
    let table = object("table", "", "t", "");
    let of = |definition| vec![table.clone(), object("trigger", "t", "postbell_route", definition)];
    assert_eq!(
        compared(of("text|O|f|body"), &of("text|D|f|body")),
        ["trigger postbell_route on t is disabled"]
    );
    assert_eq!(
        compared(of("text|O|f|body"), &of("text|O|f|other")),
        ["trigger postbell_route on t is not as this version needs it"]
    );
}

#[test]
fn every_difference_has_a_cure_or_a_way_out() {
    for object in needed() {
        let missing = Difference { needed: object, found: None };
        assert!(missing.cure().is_some() || object.kind == "trigger" || missing.is_only_slow(), "{object:?}");
        for difference in [missing, Difference { needed: object, found: Some("other".to_owned()) }] {
            assert!(!difference.sentence().is_empty() && !difference.way_out().is_empty());
        }
    }
}

#[test]
fn a_table_that_is_made_anew_has_the_rows_that_it_came_with() {
    let limits = needed().iter().find(|o| o.name == "postbell.role_limits").expect("a table");
    let cure = Difference { needed: limits, found: None }.cure().expect("a cure");
    assert!(cure.contains("insert into postbell.role_limits values\n  ('agent',"), "{cure}");
}

#[test]
fn only_some_errors_smell_of_drift() {
    // Other tests may cause such errors meanwhile, so the number may grow but never falls.
    let of = |code| {
        let before = *smells().borrow();
        smell(code);
        *smells().borrow() > before
    };
    assert!(of("42P01"));
    let is_quiet = (0..100).any(|_| !of("40001"));
    assert!(is_quiet);
}
