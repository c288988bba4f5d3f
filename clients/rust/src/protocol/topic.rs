//! Topics: tokens between dots. A pattern may have `*` for one token, and may end in `>` for one or more.

use super::limits::{NAME_BYTES_MAX, TOPIC_TOKENS_MAX};

/// Checks that a message can be sent to this topic.
///
/// # Errors
/// The sentence that says why not.
pub fn check_topic(topic: &str) -> Result<(), String> {
    check(topic)?;
    match topic.split('.').find(|token| matches!(*token, "*" | ">")) {
        Some(token) => {
            Err(format!("a topic to send to cannot have the token {token}, which stands for others"))
        }
        None => Ok(()),
    }
}

/// Checks that this can be subscribed to.
///
/// # Errors
/// The sentence that says why not.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    check(pattern)?;
    let tokens = pattern.split('.').collect::<Vec<_>>();
    match tokens.iter().position(|token| *token == ">") {
        Some(at) if at + 1 < tokens.len() => {
            Err("the token > stands for the rest: it can only be the last".to_owned())
        }
        _ => Ok(()),
    }
}

fn check(text: &str) -> Result<(), String> {
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("a topic has at most {NAME_BYTES_MAX} bytes, this has {}", text.len()));
    }
    if text.split('.').any(str::is_empty) {
        return Err("a topic is tokens between dots, and none of them is empty".to_owned());
    }
    if text.split('.').count() > TOPIC_TOKENS_MAX {
        return Err(format!("a topic has at most {TOPIC_TOKENS_MAX} tokens"));
    }
    if text.chars().any(char::is_control) {
        return Err("a topic cannot contain control characters".to_owned());
    }
    Ok(())
}

/// Whether a pattern matches a topic, just as `postbell.topic_patterns` decides in the database.
pub fn matches(pattern: &str, topic: &str) -> bool {
    let (mut patterns, mut topics) = (pattern.split('.'), topic.split('.'));
    loop {
        match (patterns.next(), topics.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(wanted), Some(token)) if wanted == "*" || wanted == token => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_token_and_the_end_is_one_or_more() {
        for (pattern, topic, is) in [
            ("county.c12", "county.c12", true),
            ("county.*", "county.c12", true),
            ("*.c12", "county.c12", true),
            (">", "county.c12", true),
            ("county.>", "county.c12.roads", true),
            ("county.*", "county.c12.roads", false),
            ("county.>", "county", false),
            ("county", "county.c12", false),
            ("county.c1", "county.c12", false),
        ] {
            assert_eq!(matches(pattern, topic), is, "{pattern} and {topic}");
        }
    }

    #[test]
    fn what_can_be_sent_to_and_what_can_be_subscribed_to() {
        assert!(check_topic("alerts.critical").is_ok() && check_pattern("alerts.*.>").is_ok());
        assert!(check_topic("a*b.c>").is_ok(), "only a whole token stands for others");
        let (bytes, tokens) = ("x".repeat(NAME_BYTES_MAX), ["t"; TOPIC_TOKENS_MAX].join("."));
        assert!(check_topic(&bytes).is_ok() && check_topic(&tokens).is_ok());
        let long = ["t"; TOPIC_TOKENS_MAX + 1].join(".");
        for bad in ["", ".", "a..b", "a.", &long, &"x".repeat(NAME_BYTES_MAX + 1), "a\nb"] {
            assert!(check_topic(bad).is_err() && check_pattern(bad).is_err(), "{bad:?}");
        }
        assert!(check_topic("a.*").is_err() && check_topic(">").is_err() && check_pattern("a.>.b").is_err());
    }
}
