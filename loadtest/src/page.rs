//! `report.html`: one file that needs nothing beside it, no network and no script. All that it says is in
//! `report.json`.

mod figures;
mod guide;
mod head;
mod percentiles;
mod plot;
mod ruler;
#[cfg(test)]
pub(crate) mod sample;
mod scenario;
pub(crate) mod text;

use crate::report::Report;

const STYLE: &str = include_str!("page/style.css");

/// The whole page.
pub(crate) fn html(report: &Report) -> String {
    let body: String = [
        head::headline(report),
        head::verdict(report),
        guide::contents(report),
        figures::of_all(report),
        report.scenarios.iter().map(|s| scenario::section(s, times_count(report))).collect(),
        guide::settings(report),
        guide::how_to_read(),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n{body}</body>\n</html>\n",
        text::escape(&format!("Load test of Postbell, {}", text::moment(&report.started_at)))
    )
}

/// Whether the times of this report mean anything, so that its figures can be judged.
fn times_count(report: &Report) -> bool {
    !report.quick && report.versions.build != "debug"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Figure;

    #[test]
    fn the_page_asks_nothing_of_any_network() {
        let page = html(&sample::report());
        for foreign in ["http", "src=", "@import", "url(", "<link", "<script", "//"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn sections_come_in_order_and_links_lead_to_them() {
        let page = html(&sample::report());
        let at = |part: &str| page.find(part).unwrap_or_else(|| panic!("no {part}"));
        let ids = ["verdict", "contents", "figures", "s-idle-latency", "s-burst", "settings", "reading"];
        assert!(ids.map(|id| at(&format!("id=\"{id}\""))).is_sorted());
        for link in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            at(&format!("id=\"{link}\""));
        }
    }

    #[test]
    fn tags_are_closed() {
        let page = html(&sample::report());
        for tag in [
            "section", "table", "tr", "td", "th", "figure", "svg", "g", "ul", "li", "p", "div", "dl", "a",
            "b",
        ] {
            let opened =
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn no_text_of_the_report_is_markup() {
        let mut report = sample::report();
        let evil = || "<i>&\"'".to_owned();
        report.machine.cpu = evil();
        report.machine.system = evil();
        report.versions.commit = evil();
        report.versions.postgres = evil();
        report.started_at = evil();
        report.settings.insert(evil(), evil());
        let scenario = &mut report.scenarios[0];
        scenario.name = evil();
        scenario.about = evil();
        scenario.method = evil();
        scenario.notes = vec![evil()];
        scenario.measures[0].name = evil();
        scenario.measures[0].unit = evil();
        scenario.latencies[0].label = evil();
        scenario.plots[0].title = evil();
        scenario.plots[0].y.label = evil();
        scenario.plots[0].lines[0].label = evil();
        let figure = Figure { asked: evil(), value: 2.0, limit: 1.0, unit: evil(), at_least: false };
        scenario.figures = vec![figure];
        assert!(!html(&report).contains("<i>"));
    }
}
