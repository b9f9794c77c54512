//! The report as a page that needs nothing else: tables, pictures, and the JSON document within. Pure.

use std::fmt::Write as _;

use crate::{
    report::{Report, Section, known},
    server::Kind,
    svg::{self, Frame, escaped, logarithmic},
    threshold::Metric,
};

const STYLE: &str = "body{font:14px sans-serif;max-width:980px;margin:2em auto;color:#222}table{border-collapse:collapse;margin:1em 0}\
    td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}\
    h2{margin-top:2.5em;border-top:2px solid #222;padding-top:.7em}.missed{color:#b00020;font-weight:bold}.ok{color:#1a7f37}\
    .about{color:#555}svg{width:100%}";

const WIDTH: f64 = 940.0;
/// Without the legend, which has two names in a row.
const HEIGHT: f64 = 310.0;
const LEGEND_ROW: f64 = 18.0;
const COSTS: Frame = Frame { x: [50.0, 400.0], y: [40.0, 270.0] };
const TIMES: Frame = Frame { x: [510.0, 910.0], y: [40.0, 270.0] };
/// A single bar is no wall.
const WIDEST_BAR: f64 = 60.0;
/// The longest tail that is drawn: 99.99 %.
const NINES: f64 = 4.0;

/// The page.
///
/// # Errors
/// When the report has no JSON form.
pub(crate) fn page(report: &Report) -> anyhow::Result<String> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<title>loadtest relay</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>loadtest relay</h1>\n"
    );
    let [before, after] = report.load_average;
    let cores = report.cores;
    let verdict = if report.holds() { ("ok", "Every threshold holds.") } else { ("missed", "Thresholds are missed.") };
    put(
        &mut page,
        format_args!(
            "<p>{cores} cores, load average {before} before, {after} after. Ratios are of medians, \
        in one run with servers taking turns.</p>\n<p class=\"{}\">{}</p>\n",
            verdict.0, verdict.1
        ),
    );
    for section in &report.scenarios {
        scenario(&mut page, section);
    }
    // Within a script element only "</" could end it.
    let json = serde_json::to_string(report)?.replace("</", "<\\/");
    put(&mut page, format_args!("<script type=\"application/json\" id=\"report\">{json}</script>\n</body>\n</html>\n"));
    Ok(page)
}

fn scenario(page: &mut String, section: &Section) {
    let scenario = &section.scenario;
    put(
        page,
        format_args!("<h2>{}</h2>\n<p class=\"about\">{}</p>\n", escaped(&section.name), escaped(&scenario.about)),
    );
    put(
        page,
        format_args!(
            "<p>{} pairs, medians of {} rounds of {:?}, seed {}.</p>\n",
            scenario.pairs(),
            scenario.rounds,
            scenario.duration,
            scenario.seed
        ),
    );
    figures(page, section);
    ratios(page, section);
    page.push_str(&picture(section));
    page.push_str("<ul>\n");
    for kind in &section.left_out {
        put(page, format_args!("<li>{} is not installed: left out.</li>\n", kind.name()));
    }
    for note in section.notes() {
        put(page, format_args!("<li>{}</li>\n", escaped(&note)));
    }
    page.push_str("</ul>\n");
    if !section.checked.is_empty() {
        page.push_str("<table class=\"checked\">\n<tr><th>fails if</th><th>is</th><th></th></tr>\n");
        for checked in &section.checked {
            let (class, word) = if checked.missed { ("missed", "missed") } else { ("ok", "holds") };
            let value = checked.value.map_or("not measured".to_owned(), |value| format!("{value:.4}"));
            put(
                page,
                format_args!(
                    "<tr><td>{}</td><td>{value}</td><td class=\"{class}\">{word}</td></tr>\n",
                    escaped(&checked.threshold.to_string())
                ),
            );
        }
        page.push_str("</table>\n");
    }
}

fn figures(page: &mut String, section: &Section) {
    page.push_str(
        "<table class=\"figures\">\n<tr><th></th><th>delivered/s</th><th>lost %</th><th>p50 µs</th><th>p99 µs</th>\
         <th>p99.9 µs</th><th>CPU µs</th><th>process µs</th><th>host µs</th></tr>\n",
    );
    for row in &section.rows {
        let figures = &row.figures;
        put(
            page,
            format_args!(
                "<tr><td>{}</td><td>{:.0}</td><td>{:.3}</td><td>{:.1}</td><td>{:.1}</td><td>{:.1}</td><td>{}</td><td>{}</td>\
             <td>{}</td></tr>\n",
                escaped(&section.row_name(row)),
                figures.delivered_per_second,
                figures.loss * 100.0,
                figures.p50_us,
                figures.p99_us,
                figures.p999_us,
                known(figures.cpu_us),
                known(figures.process_us),
                known(figures.host_us),
            ),
        );
    }
    page.push_str("</table>\n");
}

fn ratios(page: &mut String, section: &Section) {
    const METRICS: [Metric; 6] = [Metric::Cpu, Metric::Process, Metric::Host, Metric::P50, Metric::P99, Metric::P999];
    let others = section.others();
    if others.is_empty() {
        return;
    }
    page.push_str("<table class=\"ratios\">\n<tr><th>relay in parts of</th>");
    METRICS.iter().for_each(|metric| put(page, format_args!("<th>{}</th>", metric.name())));
    page.push_str("</tr>\n");
    for against in others {
        put(page, format_args!("<tr><td>{}</td>", against.name()));
        for metric in METRICS {
            put(page, format_args!("<td>{}</td>", known(section.value(metric, Some(against)))));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

/// CPU time as bars with a dot for each round, latencies as curves.
fn picture(section: &Section) -> String {
    let legend = section.rows.len().div_ceil(2) as f64 * LEGEND_ROW;
    let mut svg = svg::open(WIDTH, HEIGHT + legend);
    costs(&mut svg, section);
    times(&mut svg, section);
    svg.push_str("</svg>\n");
    svg
}

fn costs(svg: &mut String, section: &Section) {
    svg::text(svg, f64::midpoint(COSTS.x[0], COSTS.x[1]), 20.0, "CPU per delivered datagram, microseconds");
    let rounds = section.rounds.iter().filter_map(|round| round.figures.cpu_us);
    let (most, step) =
        scale(rounds.chain(section.rows.iter().filter_map(|row| row.figures.cpu_us)).fold(0.1, f64::max));
    for tick in 0..=((most / step).round() as u32) {
        let value = f64::from(tick) * step;
        let y = COSTS.height(value / most);
        svg::line(svg, [COSTS.x[0], y], [COSTS.x[1], y], "#dddddd");
        svg::text_before(svg, COSTS.x[0] - 6.0, y + 4.0, &format!("{value}"));
    }
    let width = (COSTS.x[1] - COSTS.x[0]) / section.rows.len().max(1) as f64;
    for (nth, row) in section.rows.iter().enumerate() {
        let x = COSTS.x[0] + width * (nth as f64 + 0.5);
        // Labels go in two rows, or they would run into each other.
        svg::text(svg, x, COSTS.y[1] + 18.0 + 18.0 * (nth % 2) as f64, &section.row_name(row));
        let Some(cpu) = row.figures.cpu_us else {
            svg::text(svg, x, COSTS.y[1] - 6.0, "not known");
            continue;
        };
        let top = COSTS.height(cpu / most);
        let wide = (width * 0.6).min(WIDEST_BAR);
        svg::bar(svg, [x - wide / 2.0, top], [wide, COSTS.y[1] - top], colour(row.server, row.phase));
        let own = section.rounds.iter().filter(|round| (round.server, round.phase) == (row.server, row.phase));
        for cpu in own.filter_map(|round| round.figures.cpu_us) {
            svg::dot(svg, [x, COSTS.height(cpu / most)], "#222222");
        }
        svg::text_after(svg, x + 6.0, top - 6.0, &format!("{cpu:.2}"));
    }
}

fn times(svg: &mut String, section: &Section) {
    svg::text(svg, f64::midpoint(TIMES.x[0], TIMES.x[1]), 20.0, "latency up to each percentile, microseconds");
    let values = || section.rows.iter().flat_map(|row| &row.latency).map(|[_, micros]| micros.max(1.0));
    let decade = |exponent: f64| 10_f64.powf(exponent);
    let least = values().fold(f64::MAX, f64::min).log10().floor().clamp(0.0, 6.0);
    let most = values().fold(1.0, f64::max).log10().ceil().max(least + 1.0);
    let range = [decade(least), decade(most)];
    for exponent in (least as i32)..=(most as i32) {
        let y = TIMES.height(logarithmic(decade(f64::from(exponent)), range));
        svg::line(svg, [TIMES.x[0], y], [TIMES.x[1], y], "#dddddd");
        svg::text_before(svg, TIMES.x[0] - 6.0, y + 4.0, &format!("{}", decade(f64::from(exponent))));
    }
    for (nines, name) in [(0.301, "50 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %")] {
        let x = TIMES.along(nines / NINES);
        svg::line(svg, [x, TIMES.y[0]], [x, TIMES.y[1]], "#dddddd");
        svg::text(svg, x, TIMES.y[1] + 18.0, name);
    }
    for row in &section.rows {
        let place = |[quantile, micros]: &[f64; 2]| {
            let nines = -(1.0 - quantile).log10();
            [TIMES.along((nines / NINES).min(1.0)), TIMES.height(logarithmic(micros.max(1.0), range))]
        };
        svg::curve(svg, &row.latency.iter().map(place).collect::<Vec<_>>(), colour(row.server, row.phase));
    }
    let half = f64::midpoint(TIMES.x[0], TIMES.x[1]);
    for (nth, row) in section.rows.iter().enumerate() {
        let (x, y) = ([TIMES.x[0], half][nth % 2], HEIGHT + LEGEND_ROW * (nth / 2) as f64);
        svg::bar(svg, [x, y - 9.0], [10.0, 10.0], colour(row.server, row.phase));
        svg::text_after(svg, x + 14.0, y, &section.row_name(row));
    }
}

/// A round number above `most`, and the step of about five lines up to it.
fn scale(most: f64) -> (f64, f64) {
    let decade = 10_f64.powf(most.log10().floor());
    let step =
        [0.2, 0.5, 1.0, 2.0].map(|part| part * decade).into_iter().find(|step| most / step <= 6.0).unwrap_or(decade);
    // Room for the number above the highest bar.
    (((most * 1.08) / step).ceil() * step, step)
}

const fn colour(server: Kind, phase: usize) -> &'static str {
    match (server, phase % 2) {
        (Kind::Relay, 0) => "#4477aa",
        (Kind::Relay, _) => "#223b55",
        (Kind::Batched, 0) => "#66ccee",
        (Kind::Batched, _) => "#337788",
        (Kind::Naive, 0) => "#999999",
        (Kind::Naive, _) => "#555555",
        (Kind::Coturn, 0) => "#aa3377",
        (Kind::Coturn, _) => "#551a3c",
        (Kind::TurnServer | Kind::Iroh, 0) => "#228833",
        (Kind::TurnServer | Kind::Iroh, _) => "#114419",
        (Kind::IrohTls, 0) => "#ccbb44",
        (Kind::IrohTls, _) => "#665d22",
    }
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = page.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::flood;

    #[test]
    fn the_page_holds_what_the_report_says() {
        let report = Report::new(2, [0.5, 0.7], vec![flood(&[]), flood(&[Kind::Coturn])]);
        let page = page(&report).unwrap();
        let elements = elements(&page);
        let count = |name: &str| elements.iter().filter(|element| element.split(' ').next() == Some(name)).count();
        assert_eq!((count("h2"), count("svg")), (2, 2));
        // A curve for each server; a bar for each, one in the legend, and the ground.
        assert_eq!((count("polyline"), count("rect")), (5 + 4, 2 * 5 + 1 + 2 * 4 + 1));
        assert_eq!(count("circle"), 5 + 4, "a dot for each round");
        assert!(page.contains("coturn is not installed: left out."));
        assert!(page.contains("<td>loss &gt; 0.01</td><td>0.1000</td><td class=\"missed\">missed</td>"));
        let embedded = page.split_once("id=\"report\">").unwrap().1.split_once("</script>").unwrap().0;
        assert_eq!(embedded, serde_json::to_string(&report).unwrap());
        let document: serde_json::Value = serde_json::from_str(embedded).unwrap();
        assert_eq!(document["scenarios"][1]["left_out"][0], "coturn");
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&Report::new(2, [0.0, 0.0], vec![flood(&[])])).unwrap();
        for fetched in [" src=", "<link", "@import", "url("] {
            assert!(!page.contains(fetched), "{fetched}");
        }
    }

    #[test]
    fn names_cannot_break_out_of_their_element() {
        let mut section = flood(&[]);
        section.name = "<b>\"&</script>".into();
        let page = page(&Report::new(2, [0.0, 0.0], vec![section])).unwrap();
        assert!(page.contains("<h2>&lt;b&gt;&quot;&amp;&lt;/script&gt;</h2>"));
        elements(&page);
    }

    #[test]
    fn scales_end_above_the_highest_value_with_few_lines() {
        for most in [0.1, 0.9, 1.0, 4.4, 5.9, 6.1, 13.0, 99.0, 640.0] {
            let (top, step) = scale(most);
            assert!(top > most && (2.0..=7.5).contains(&(top / step)), "{most}: {top} by {step}");
        }
    }

    /// The names and attributes of all elements; every one is closed in turn.
    fn elements(page: &str) -> Vec<&str> {
        let (mut rest, mut open, mut all) = (page.strip_prefix("<!DOCTYPE html>").unwrap(), Vec::new(), Vec::new());
        while let Some((_, after)) = rest.split_once('<') {
            let (tag, after) = after.split_once('>').unwrap();
            rest = after;
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "{tag}");
            } else {
                all.push(tag.trim_end_matches('/'));
                if !tag.ends_with('/') {
                    open.push(name);
                }
                if name == "script" {
                    // Its text is no markup.
                    rest = &rest[rest.find("</script").unwrap()..];
                }
            }
        }
        assert!(open.is_empty(), "{open:?}");
        all
    }
}
