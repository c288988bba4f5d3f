//! The options of `serve`, made from [`SETTINGS`], so that a setting is described once.

use std::collections::HashMap;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::broker::config::{DATABASE_URL, DATABASE_URL_DIRECT, HTTP, PORT, SCHEMA, SETTINGS, Setting};

/// The settings that were given, by the name of their environment variable.
// No Debug: a database URL has a password.
#[derive(Clone, Default)]
struct Given(HashMap<&'static str, String>);

impl Given {
    fn read(settings: &[Setting], matches: &ArgMatches) -> Self {
        let given = settings.iter().filter_map(|s| {
            let value = matches.get_one::<String>(s.flag)?;
            Some((s.env, value.clone()))
        });
        Self(given.collect())
    }
}

fn augment(settings: &[Setting], mut command: Command) -> Command {
    for setting in settings {
        let mut help = setting.help.to_owned();
        if !setting.default.is_empty() {
            help.push_str(&format!(" [default: {}]", setting.default));
        }
        let arg = Arg::new(setting.flag)
            .long(setting.flag)
            .env(setting.env)
            // A password must not be shown by --help.
            .hide_env_values(true)
            .value_name("VALUE")
            .help(help);
        command = command.arg(arg);
    }
    command
}

macro_rules! setting_args {
    ($(#[$doc:meta])* $name:ident, $settings:expr) => {
        $(#[$doc])*
        #[derive(Clone, Default)]
        pub(super) struct $name(Given);

        impl $name {
            /// The value for an environment variable's name, given by option or environment.
            pub(super) fn value(&self, env: &str) -> Option<String> {
                self.0.0.get(env).cloned()
            }
        }

        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                augment($settings, command)
            }

            fn augment_args_for_update(command: Command) -> Command {
                augment($settings, command)
            }
        }

        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(Given::read($settings, matches)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0 = Given::read($settings, matches);
                Ok(())
            }
        }
    };
}

setting_args! {
    /// Every setting of the broker.
    BrokerArgs, SETTINGS
}
setting_args! {
    /// The database alone.
    DatabaseArgs, &[DATABASE_URL, DATABASE_URL_DIRECT, SCHEMA]
}
setting_args! {
    /// Where metrics and health are served.
    HttpArgs, &[HTTP, PORT]
}
