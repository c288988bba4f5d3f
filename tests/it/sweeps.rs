//! The sweeps of the reaper meet a row that is refused, takes long, ends the server process, or cannot be read: all other rows are
//! written or removed all the same.

mod retention;

use crate::harness::TestDb;
use crate::mesh::Mesh;
use crate::standstill::owned_mesh;

/// Ends the server process, as a crashing extension does.
const ENDS: &str = "perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(60);";
const RAISES: &str = "raise exception 'no';";
const SLEEPS: &str = "perform pg_sleep(10);";

/// Somebody's change to a table, after which one row is at fault. `drop function fault() cascade` takes it back.
#[derive(Clone, Debug)]
struct Fault {
    name: String,
    ddl: String,
}

impl Fault {
    /// A trigger before the row is written, which does this where `holds`.
    fn trigger(table: &str, event: &str, holds: &str, act: &str) -> Self {
        let row = if event == "delete" { "old" } else { "new" };
        let ddl = format!(
            "create function fault() returns trigger language plpgsql as $$
               begin if {holds} then {act} end if; return {row}; end $$;
             create trigger fault before {event} on {table} for each row execute function fault()"
        );
        Self { name: format!("a trigger: {act}"), ddl }
    }

    /// The same at the COMMIT.
    fn deferred(table: &str, event: &str, holds: &str, act: &str) -> Self {
        let ddl = Self::trigger(table, event, holds, act)
            .ddl
            .replace(
                &format!("before {event} on {table}"),
                &format!("after {event} on {table} deferrable initially deferred"),
            )
            .replace("create trigger", "create constraint trigger");
        Self { name: format!("a deferred trigger: {act}"), ddl }
    }

    /// A policy that binds the broker's role, which owns the table.
    fn policy(table: &str, column: &str, holds: &str, act: &str) -> Self {
        let ddl = format!(
            "create function fault(read text) returns boolean language plpgsql as $$
               begin if {holds} then {act} end if; return true; end $$;
             create policy fault on {table} using (fault({column}::text)) with check (true);
             alter table {table} force row level security"
        );
        Self { name: format!("a policy: {act}"), ddl }
    }

    /// Each of them for the row where this holds: `written` of a trigger's row, `read` of the column that a policy is asked about.
    fn all(table: &str, event: &str, written: &str, (column, read): (&str, &str)) -> Vec<Self> {
        let mut all: Vec<Self> =
            [RAISES, SLEEPS, ENDS].iter().map(|act| Self::trigger(table, event, written, act)).collect();
        all.push(Self::deferred(table, event, written, SLEEPS));
        all.extend([RAISES, SLEEPS, ENDS].iter().map(|act| Self::policy(table, column, read, act)));
        all
    }

    fn of_registry() -> Vec<Self> {
        Self::all("agent_registry", "update", "new.agent_id = 'a'", ("agent_id", "read = 'a'"))
    }
}

/// An agent `a` that a fault concerns and twelve that it does not, all of them with these facts.
fn agents(facts: &str) -> String {
    format!(
        "insert into agent_registry (agent_id, agent_name, agent_type, environment, status, last_heartbeat, connected_to)
         select i, i, 'x', 'pc', 'online', {facts}
         from (select 'a' union all select 'u' || n from generate_series(1, 12) n) t (i)"
    )
}

/// The others are offline for this reason, and `a` is what it was.
async fn the_others_are_offline(admin: &TestDb, reason: &str, fault: &str) {
    let offline = "select count(*) = 12 from agent_registry where agent_id <> 'a' and status = 'offline' and offline_reason = ";
    admin.until(&format!("{offline}'{reason}' -- {fault}")).await;
    let a = "select status from agent_registry where agent_id = 'a'";
    assert_eq!(admin.ask::<String>(a).await, "online", "{fault}");
    // An operator hears of it.
    admin
        .until(&format!(
            "select count(*) = 1 and bool_and(inbox = 'a') from postbell.set_aside where kind = 'presence' -- {fault}"
        ))
        .await;
}

/// Once the row is well, it is written as well.
async fn mended(admin: &TestDb, mesh: Mesh, fault: &str) {
    admin
        .sql()
        .await
        .batch_execute("drop function fault cascade; alter table agent_registry no force row level security")
        .await
        .expect("mended");
    admin
        .until(&format!("select status = 'offline' from agent_registry where agent_id = 'a' -- {fault}"))
        .await;
    mesh.until_ready(true).await;
    mesh.stop().await;
}

/// Meets all of them at once, and names each at which it fails.
async fn each<F: Future<Output = ()> + Send + 'static>(faults: Vec<Fault>, meets: impl Fn(Fault) -> F) {
    let met = faults.into_iter().map(|fault| (fault.name.clone(), tokio::spawn(meets(fault))));
    let met: Vec<_> = met.collect();
    let mut failed = Vec::new();
    for (name, meeting) in met {
        if meeting.await.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn an_agent_keeps_no_other_that_is_silent_from_being_offline() {
    each(Fault::of_registry(), one_is_silent).await;
}

async fn one_is_silent(Fault { name, ddl }: Fault) {
    let (admin, mesh) = owned_mesh().await;
    let sql = admin.sql().await;
    sql.batch_execute(&format!("{ddl}; {}", agents("'epoch', null::uuid[]"))).await.expect(&name);
    the_others_are_offline(&admin, "silent", &name).await;
    mended(&admin, mesh, &name).await;
}

const GONE: &str = "'{00000000-0000-0000-0000-000000000001}'::uuid[]";
/// A broker that is dead for a minute, and its leases.
const BROKER: &str = "
    insert into postbell.brokers (broker_id, name, address, version, lease_until)
    values ('00000000-0000-0000-0000-000000000001', 'gone', 'x', 'x', now() - interval '1 minute');
    insert into postbell.leases (inbox, broker_id)
    select i, '00000000-0000-0000-0000-000000000001' from unnest(array['a', 'u1', 'u2']) i";
const FORGOTTEN: &str = "select not exists (select from postbell.brokers where name = 'gone')
                           and not exists (select from postbell.leases)";

#[tokio::test]
async fn an_agent_of_a_broker_that_is_gone_keeps_no_other_from_being_offline() {
    each(Fault::of_registry(), one_is_left_behind).await;
}

async fn one_is_left_behind(Fault { name, ddl }: Fault) {
    let (admin, mesh) = owned_mesh().await;
    let sql = admin.sql().await;
    let agents = agents(&format!("now() - interval '10 seconds', {GONE}"));
    sql.batch_execute(&format!("{ddl}; {agents}; {BROKER}")).await.expect(&name);
    the_others_are_offline(&admin, "broker_gone", &name).await;
    admin.until(&format!("{FORGOTTEN} -- {name}")).await;
    mended(&admin, mesh, &name).await;
}

/// The row is looked at again soon after somebody gives it back, and not when the agent was silent for five minutes.
#[tokio::test]
async fn an_agent_of_a_broker_that_is_gone_is_offline_once_its_row_is_free() {
    let (admin, mesh) = owned_mesh().await;
    let (sql, holder) = (admin.sql().await, admin.sql().await);
    sql.batch_execute(&agents(&format!("now() - interval '10 seconds', {GONE}"))).await.expect("agents");
    holder
        .batch_execute("begin; select from agent_registry where agent_id = 'a' for update")
        .await
        .expect("held");
    sql.batch_execute(BROKER).await.expect("a broker");
    admin.until("select count(*) = 12 from agent_registry where status = 'offline' and offline_reason = 'broker_gone'").await;
    admin.until(FORGOTTEN).await;
    holder.batch_execute("rollback").await.expect("free");
    admin
        .until("select status = 'offline' and connected_to is null from agent_registry where agent_id = 'a'")
        .await;
    mesh.stop().await;
}
