//! The status page: files that are part of the program.
//!
//! The files hold nothing of a mesh, so they need no token; all data comes by `/api`.

use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_FRAME_OPTIONS};

use super::answer::{self, HttpAnswer};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Allows scripts, styles and pictures of this origin and nothing else; text never becomes markup
/// (`require-trusted-types-for`).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($path:literal: $kind:ident, $file:literal;)*) => {
        &[$(File { path: $path, kind: $kind, text: include_str!(concat!("page/", $file)) }),*]
    };
}

const FILES: &[File] = files! {
    "/": HTML, "index.html";
    "/page/look.css": CSS, "look.css";
    "/page/parts.css": CSS, "parts.css";
    "/page/mesh.css": CSS, "mesh.css";
    "/page/bell.svg": SVG, "bell.svg";
    "/page/main.js": SCRIPT, "main.js";
    "/page/api.js": SCRIPT, "api.js";
    "/page/dom.js": SCRIPT, "dom.js";
    "/page/words.js": SCRIPT, "words.js";
    "/page/verdict.js": SCRIPT, "verdict.js";
    "/page/picture.js": SCRIPT, "picture.js";
    "/page/layout.js": SCRIPT, "layout.js";
    "/page/motion.js": SCRIPT, "motion.js";
    "/page/delivery.js": SCRIPT, "delivery.js";
    "/page/depth.js": SCRIPT, "depth.js";
    "/page/agents.js": SCRIPT, "agents.js";
    "/page/detail.js": SCRIPT, "detail.js";
    "/page/dead.js": SCRIPT, "dead.js";
    "/page/passing.js": SCRIPT, "passing.js";
    "/page/token.js": SCRIPT, "token.js";
};

/// The file that is served at a path.
pub(super) fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

pub(super) fn respond(file: &'static File) -> HttpAnswer {
    let mut answer = answer::respond(StatusCode::OK, file.kind, file.text);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    for (name, value) in
        [("cross-origin-opener-policy", "same-origin"), ("cross-origin-resource-policy", "same-origin")]
    {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served_and_none_is_long() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/watch/http/page");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        let name =
            |file: &File| file.path.rsplit('/').next().map(|n| if n.is_empty() { "index.html" } else { n });
        let served: BTreeSet<String> = FILES.iter().filter_map(name).map(str::to_owned).collect();
        assert_eq!(there, served);
        for file in FILES {
            assert!(file.text.lines().count() <= 300, "{} is too long", file.path);
        }
    }

    #[test]
    fn nothing_in_it_asks_another_host_or_runs_inline() {
        for file in FILES {
            for word in [
                "https://",
                "//cdn",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "document.write",
            ] {
                assert!(!file.text.contains(word), "{} has {word}", file.path);
            }
            // SVG must name this one address.
            let addresses = file.text.matches("http://").count();
            assert_eq!(addresses, file.text.matches("http://www.w3.org/2000/svg").count(), "{}", file.path);
        }
        let html = file("/").expect("the page").text;
        for word in ["onclick", "onload", "style=", "<style", "javascript:"] {
            assert!(!html.contains(word), "the page has {word}");
        }
        assert!(!html.contains("<script>"), "the page has an inline script");
    }
}
