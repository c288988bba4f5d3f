use super::*;

fn found(faults: Vec<Fault>) -> Found {
    Found {
        schema: "public".to_owned(),
        role: "me".to_owned(),
        reached: BTreeMap::from([("message".to_owned(), Some("like others".to_owned()))]),
        deliveries: None,
        unreached: BTreeMap::new(),
        faults,
    }
}

fn fault(sqlstate: &str, level: &str, so: &str) -> Fault {
    Fault {
        level: level.to_owned(),
        table: Some("agent_messages".to_owned()),
        so: so.to_owned(),
        sqlstate: sqlstate.to_owned(),
        said: "Failing row contains (secret)".to_owned(),
        constraint: Some("c".to_owned()),
        column: Some("k".to_owned()),
        ..Fault::default()
    }
}

#[test]
fn one_cause_is_one_sentence_and_its_worst_step_decides() {
    let faults =
        vec![fault("23514", "warn", "a"), fault("23514", "refuse", "b"), fault("23502", "warn", "c")];
    let judged = found(faults).judge().expect("judged");
    assert_eq!(judged.refusals.len(), 1);
    assert!(
        judged.refusals[0].starts_with("public.agent_messages: the constraint c refuses the row, so a; b. "),
        "{judged:?}"
    );
    assert_eq!(judged.warnings.len(), 1);
    assert!(judged.warnings[0].contains("column k cannot be null"), "{judged:?}");
}

#[test]
fn no_code_shows_what_a_row_holds() {
    for code in ["23514", "23502", "23503", "23505", "23P01", "22001", "22P02", "22003", "P0001", "XX000", ""]
    {
        let mut one = fault(code, "refuse", "it fails");
        for triggers in [None, Some(vec!["t of agent_messages".to_owned()])] {
            one.triggers = triggers;
            let judged = found(vec![one.clone()]).judge().expect("judged");
            assert!(!judged.refusals[0].contains("secret"), "{judged:?}");
        }
    }
}

#[test]
fn what_was_reached_by_the_words_of_the_mesh_is_a_warning() {
    let mut other = fault("23514", "refuse", "no message can be inserted");
    other.goal = Some("message".to_owned());
    let judged = found(vec![other]).judge().expect("judged");
    assert_eq!((judged.refusals.len(), judged.warnings.len()), (0, 1));
}

#[test]
fn a_held_table_is_no_judgement() {
    let mut held = fault("55P03", "refuse", "migration 0002_agent_tables");
    held.table = None;
    let error = found(vec![held]).judge().expect_err("held");
    assert!(error.is_retryable());
    assert!(
        error
            .to_string()
            .starts_with("migration 0002_agent_tables was not applied, and nothing of it remains")
    );
}
