//! The scorecard's times as a picture: how long a confirmation takes, by how much fails.

use std::fmt::Write;

/// One line: its name, and points of a share in percent and of seconds.
pub(super) struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 44.0;
const TOP: f64 = 16.0;
const RIGHT: f64 = 130.0;
/// Told apart by dashes as well as by colour.
const STYLES: [(&str, &str); 4] =
    [("#0b6e99", ""), ("#b5480f", "6 3"), ("#5a3d9a", "2 3"), ("#2f7d32", "9 3 2 3")];
const SHARES: [f64; 5] = [10.0, 20.0, 30.0, 50.0, 100.0];
const SECONDS: [f64; 6] = [5.0, 10.0, 30.0, 60.0, 300.0, 1_200.0];

fn x(share: f64) -> f64 {
    let [least, .., most] = SHARES;
    let part = (share / least).ln() / (most / least).ln();
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn y(seconds: f64) -> f64 {
    let [five, .., most] = SECONDS;
    let least = five - 1.0;
    let part = (seconds.clamp(least, most) / least).ln() / (most / least).ln();
    HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
}

/// The picture, both axes logarithmic.
pub(super) fn times(title: &str, series: &[Series]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    for share in SHARES {
        let (at, foot) = (x(share), HEIGHT - BOTTOM);
        writeln!(
            out,
            "<path d=\"M{at:.1} {TOP}V{foot}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{share} \
             %</text>",
            foot + 16.0
        )
        .ok();
    }
    for seconds in SECONDS {
        let at = y(seconds);
        writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{seconds} s</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        )
        .ok();
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    writeln!(
        out,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">requests that fail</text>",
        HEIGHT - 8.0
    )
    .ok();
    for (one, (colour, dashes)) in series.iter().zip(STYLES) {
        let points: Vec<String> =
            one.points.iter().map(|(share, s)| format!("{:.1},{:.1}", x(*share), y(*s))).collect();
        writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>",
            points.join(" ")
        )
        .ok();
    }
    for ((row, one), (colour, dashes)) in (0u8..).zip(series).zip(STYLES) {
        let at = TOP + 14.0 + f64::from(row) * 20.0;
        let from = WIDTH - RIGHT + 10.0;
        writeln!(
            out,
            "<path d=\"M{from} {at}h24\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/><text x=\"{}\" \
             y=\"{}\">{}</text>",
            from + 30.0,
            at + 4.0,
            one.name
        )
        .ok();
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_that_fails_is_further_right_and_more_seconds_are_higher() {
        assert!(x(100.0) > x(30.0) && y(60.0) < y(10.0));
        let series = [Series { name: "p0".to_owned(), points: vec![(100.0, 6.0), (10.0, 60.0)] }];
        let picture = times("t", &series);
        assert!(picture.contains("polyline") && picture.ends_with("</svg>\n"));
    }
}
