//! The command line, and what the environment says in its place: a variable that says something absurd is named.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::broker::config::SETTINGS;

/// At most so many characters of a value are shown.
const SHOWN_MAX: usize = 40;

/// Why there is nothing to run.
#[derive(Debug)]
pub(super) enum Refused {
    /// Help or a version was asked for, or the command line is wrong.
    Line(clap::Error),
    /// A variable of the environment is wrong, in a sentence.
    Variable(String),
}

/// Reads a command line and the environment.
///
/// # Errors
/// See [`Refused`].
pub(super) fn parse<C: CommandFactory + FromArgMatches>(words: &[OsString]) -> Result<C, Refused> {
    // A value of the environment may be a secret, and may be anything.
    let command = each_arg(C::command(), &|arg| arg.hide_env_values(true));
    let parsed = command.clone().try_get_matches_from(words).and_then(|matches| {
        let read = C::from_arg_matches(&matches).map_err(|e| e.format(&mut command.clone()));
        Ok((read?, matches))
    });
    match parsed {
        Ok((read, matches)) => match empty(&command, &matches) {
            Some(name) => Err(Refused::Variable(is_empty(&name))),
            None => Ok(read),
        },
        Err(e) if !e.use_stderr() => Err(Refused::Line(e)),
        Err(e) => match wrong_variable(&command, words, &e) {
            Some(sentence) => Err(Refused::Variable(sentence)),
            None => Err(Refused::Line(e)),
        },
    }
}

fn each_arg(command: Command, change: &impl Fn(clap::Arg) -> clap::Arg) -> Command {
    command.mut_args(change).mut_subcommands(|command| each_arg(command, change))
}

/// The sentence about the variable that is to blame, if one is.
fn wrong_variable(command: &Command, words: &[OsString], error: &clap::Error) -> Option<String> {
    let fault = |is_heard: &dyn Fn(&OsStr) -> bool| {
        let deaf = each_arg(command.clone(), &|arg| match arg.get_env() {
            Some(name) if !is_heard(name) => arg.env(Resettable::Reset),
            _ => arg,
        });
        deaf.try_get_matches_from(words).err()
    };
    let without = fault(&|_| false);
    let mut names = BTreeSet::new();
    add_names(command, &mut names);
    names.into_iter().find_map(|name| {
        let value = std::env::var_os(&name)?;
        let is_new = |e: &clap::Error| without.as_ref().is_none_or(|w| w.to_string() != e.to_string());
        let of_its_value = fault(&|heard| heard == name).filter(|e| is_of_a_value(e) && is_new(e));
        let is_to_blame = of_its_value.is_some() || fault(&|heard| heard != name).is_none();
        is_to_blame.then(|| sentence(&name.to_string_lossy(), &value, of_its_value.as_ref().unwrap_or(error)))
    })
}

fn add_names(command: &Command, names: &mut BTreeSet<OsString>) {
    names.extend(command.get_arguments().filter_map(|arg| arg.get_env()).map(OsStr::to_owned));
    command.get_subcommands().for_each(|command| add_names(command, names));
}

fn is_of_a_value(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8)
}

fn sentence(name: &str, value: &OsStr, error: &clap::Error) -> String {
    if value.is_empty() {
        return is_empty(name);
    }
    let Some(text) = value.to_str() else {
        return format!("{name} is not UTF-8");
    };
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    let rest = if shown.len() < text.len() { "…" } else { "" };
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        return format!("{name} must be {}, not {shown:?}{rest}", valid.join(" or "));
    }
    if is_of_a_value(error) {
        let why = error.source().map(|why| format!(": {why}")).unwrap_or_default();
        return format!("{name} cannot be {shown:?}{rest}{why}");
    }
    // The option is right, and does not go with the rest of the command line.
    let said = error.to_string();
    let why: Vec<&str> = said.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let why = why.join(" ");
    format!("{name} is set, and so {}", why.strip_prefix("error: ").unwrap_or(&why))
}

fn is_empty(name: &str) -> String {
    format!("{name} is empty: give it a value, or unset it")
}

/// A variable that was read and is empty. The broker's settings take that for not set.
fn empty(command: &Command, matches: &ArgMatches) -> Option<String> {
    let is_empty = |arg: &clap::Arg| {
        let id = arg.get_id().as_str();
        let is_heard = matches.value_source(id) == Some(ValueSource::EnvVariable);
        is_heard && matches.get_raw(id).is_some_and(|mut values| values.all(OsStr::is_empty))
    };
    let names = command.get_arguments().filter(|arg| is_empty(arg)).filter_map(|arg| arg.get_env());
    let mut names = names.filter_map(OsStr::to_str);
    let is_setting = |name: &str| SETTINGS.iter().any(|setting| setting.env == name);
    names.find(|name| !is_setting(name)).map(str::to_owned).or_else(|| {
        let (name, matches) = matches.subcommand()?;
        empty(command.find_subcommand(name)?, matches)
    })
}
