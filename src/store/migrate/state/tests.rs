use super::*;

/// A database that this binary migrated.
fn current() -> Found {
    let applied = MIGRATIONS.iter().map(|m| Applied {
        version: m.version,
        name: m.name.to_owned(),
        sha256: digest(m.sql),
        applied_at: SystemTime::UNIX_EPOCH,
        by: "me".to_owned(),
    });
    let triggers = TRIGGERS.iter().map(|t| Installed {
        name: t.name.to_owned(),
        sha256: digest(t.sql),
        applied_at: SystemTime::UNIX_EPOCH,
        enabled: Some("O".to_owned()),
    });
    Found {
        server_version_num: SERVER_VERSION_MIN,
        schema: Some("public".to_owned()),
        installed_for: Some("public".to_owned()),
        applied: applied.collect(),
        triggers: triggers.collect(),
        ..Found::default()
    }
}

#[test]
fn only_a_current_schema_is_served() {
    assert_eq!(current().state(), SchemaState::Current);
    assert_eq!(current().state().refusal(), None);
}

#[test]
fn each_other_state_names_what_to_do() {
    let refusal = |change: &dyn Fn(&mut Found)| {
        let mut found = current();
        change(&mut found);
        found.state().refusal().expect("refused")
    };
    assert!(refusal(&|f| f.applied.clear()).contains("run `postbell migrate`"));
    let behind = format!("version 1 and this postbell needs {}", version_wanted());
    assert!(refusal(&|f| f.applied.truncate(1)).contains(&behind));
    assert!(
        refusal(&|f| f.applied.last_mut().expect("some").version = 99).contains("install the newer postbell")
    );
    assert!(refusal(&|f| f.applied[0].sha256.clear()).contains("0001_broker_tables"));
    assert!(refusal(&|f| f.schema = Some("mesh".to_owned())).contains("POSTBELL_SCHEMA=public"));
    assert!(refusal(&|f| f.schema = None).contains("does not exist"));
    let without_route = |f: &mut Found| {
        f.triggers.iter_mut().filter(|t| t.name == "route").for_each(|t| t.enabled = None);
    };
    assert!(refusal(&without_route).contains("postbell_route is missing"));
}

#[test]
fn a_trigger_counts_only_if_it_fires_and_is_this_versions() {
    let state = |change: &dyn Fn(&mut Installed)| {
        let mut found = current();
        change(&mut found.triggers[0]);
        found.trigger_state(&TRIGGERS[0])
    };
    assert_eq!(state(&|_| {}), TriggerState::Current);
    assert_eq!(state(&|t| t.enabled = Some("A".to_owned())), TriggerState::Current);
    assert_eq!(state(&|t| t.enabled = Some("D".to_owned())), TriggerState::Disabled);
    assert_eq!(state(&|t| t.enabled = Some("R".to_owned())), TriggerState::Disabled);
    assert_eq!(state(&|t| t.enabled = None), TriggerState::Missing);
    assert_eq!(state(&|t| t.sha256.clear()), TriggerState::Outdated);
}
