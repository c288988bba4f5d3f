//! The processes of a command: the descendants of its keeper, and the members of its group.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Pid;

/// A process, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: i32,
    parent: i32,
    pub(super) group: i32,
}

/// The living members of the family of this keeper, without the keeper.
pub(super) fn of(keeper: Pid) -> Vec<Process> {
    members(&all(), keeper.as_raw_nonzero().get())
}

fn members(all: &[Process], keeper: i32) -> Vec<Process> {
    let mut children = BTreeMap::<i32, Vec<Process>>::new();
    for process in all {
        children.entry(process.parent).or_default().push(*process);
    }
    let mut found: BTreeMap<i32, Process> =
        all.iter().filter(|p| p.group == keeper && p.id != keeper).map(|p| (p.id, *p)).collect();
    let mut seen = BTreeSet::from([keeper]);
    let mut waiting: Vec<i32> = found.keys().copied().chain([keeper]).collect();
    while let Some(parent) = waiting.pop() {
        for child in children.get(&parent).into_iter().flatten().filter(|child| child.id != keeper) {
            found.insert(child.id, *child);
            if seen.insert(child.id) {
                waiting.push(child.id);
            }
        }
    }
    found.into_values().collect()
}

/// Every living process. A process that has ended and was not waited for is left out.
#[cfg(target_os = "linux")]
fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // A process that ended meanwhile has no file any more.
    ids.filter_map(|id| parse_stat(id, &std::fs::read(format!("/proc/{id}/stat")).ok()?)).collect()
}

/// `1 (a name, which may hold anything) S 0 1 …`: state, parent, group.
#[cfg(any(target_os = "linux", test))]
fn parse_stat(id: i32, stat: &[u8]) -> Option<Process> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut words = rest.split_ascii_whitespace();
    if matches!(words.next()?, "Z" | "X" | "x") {
        return None;
    }
    Some(Process { id, parent: words.next()?.parse().ok()?, group: words.next()?.parse().ok()? })
}

#[cfg(not(target_os = "linux"))]
fn all() -> Vec<Process> {
    let listing = std::process::Command::new("ps").args(["-A", "-o", "pid=,ppid=,pgid=,stat="]).output();
    let text = listing.map(|listing| listing.stdout).unwrap_or_default();
    let found = String::from_utf8_lossy(&text).lines().filter_map(parse_line).collect::<Vec<_>>();
    // `ps` itself is in the list, and gone by now.
    let lives =
        |p: &Process| Pid::from_raw(p.id).is_some_and(|id| rustix::process::test_kill_process(id).is_ok());
    found.into_iter().filter(lives).collect()
}

#[cfg(any(not(target_os = "linux"), test))]
fn parse_line(line: &str) -> Option<Process> {
    let mut words = line.split_ascii_whitespace();
    let mut number = || words.next()?.parse().ok();
    let (id, parent, group) = (number()?, number()?, number()?);
    let is_gone = words.next().is_some_and(|state| state.starts_with('Z'));
    (!is_gone).then_some(Process { id, parent, group })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: i32, parent: i32, group: i32) -> Process {
        Process { id, parent, group }
    }

    #[test]
    fn a_family_is_who_descends_and_who_is_in_the_group() {
        let all = [
            process(1, 0, 1),
            process(10, 1, 10),
            process(11, 10, 10),
            // Left the group, and so did its child.
            process(12, 11, 12),
            process(13, 12, 13),
            // Left its parent, but not the group.
            process(14, 1, 10),
            process(15, 14, 15),
            process(20, 1, 20),
        ];
        let found: Vec<i32> = members(&all, 10).into_iter().map(|p| p.id).collect();
        assert_eq!(found, [11, 12, 13, 14, 15]);
        assert!(members(&all, 99).is_empty());
        // A listing that was made while processes came and went may hold a ring.
        let ring = [process(5, 6, 5), process(6, 5, 5)];
        assert_eq!(members(&ring, 6).len(), 1);
    }

    #[test]
    fn a_name_may_hold_anything() {
        assert_eq!(parse_stat(7, b"7 (a) S 1 (\xff) R 3 4 5 6"), Some(process(7, 3, 4)));
        assert_eq!(parse_stat(7, b"7 (a) Z 3 4 5"), None);
        assert_eq!(parse_stat(7, b"7 (a"), None);
        assert_eq!(parse_line("  7   3   4 Ss+"), Some(process(7, 3, 4)));
        assert_eq!(parse_line("  7   3   4 Z"), None);
        assert_eq!(parse_line("PID"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_among_all() {
        let own = i32::try_from(std::process::id()).expect("a number");
        assert!(all().iter().any(|process| process.id == own));
    }
}
