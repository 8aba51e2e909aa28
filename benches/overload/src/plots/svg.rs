//! Just enough SVG for curves in panels.

use std::fmt::{self, Write};

use crate::case::Variant;

/// One picture of curves; panels stand below each other.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x_title: &'static str,
    pub(super) y_title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// From where to where on the x axis.
    pub(super) shaded: Option<(f64, f64)>,
    pub(super) curves: Vec<Curve>,
}

pub(super) struct Curve {
    pub(super) variant: Variant,
    pub(super) points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy)]
pub(super) enum Axis {
    /// From 0.
    Linear {
        to: f64,
    },
    Logarithmic {
        from: f64,
        to: f64,
    },
}

/// A curve of no more points shows each of them.
const MEASURED: usize = 12;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;

/// Colours of even weight on white and on dark grey, told apart by the colour-blind too (after Okabe and Ito).
const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.grid { stroke: #d0d7de; stroke-width: 1 }
.shade { fill: #8c959f; opacity: .18 }
.curve { fill: none; stroke-width: 1.6; stroke-linejoin: round }
.ours { stroke-width: 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .grid { stroke: #3d444d }
}
";

impl Axis {
    /// Where a value lies, from 0 to 1.
    fn share(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear { to } => value / to,
            Self::Logarithmic { from, to } => (value / from).ln() / (to / from).ln(),
        };
        share.clamp(0.0, 1.0)
    }

    /// Round values to write beside the axis.
    fn marks(self) -> Vec<f64> {
        match self {
            Self::Linear { to } => {
                let steps = [0.2, 1.0, 2.0, 5.0, 10.0, 20.0];
                let step = steps
                    .into_iter()
                    .find(|step| to / step <= 10.0)
                    .unwrap_or(to);
                (0..=(to / step) as u32)
                    .map(|mark| f64::from(mark) * step)
                    .collect()
            }
            Self::Logarithmic { from, to } => {
                let decades = [0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0];
                let marks = decades
                    .into_iter()
                    .flat_map(|decade| [decade, decade * 2.0, decade * 5.0]);
                marks.filter(|mark| (from..=to).contains(mark)).collect()
            }
        }
    }
}

/// All panels in one picture.
pub(super) fn draw(panels: &[Panel]) -> String {
    let mut svg = String::new();
    write(&mut svg, panels).expect("a string takes everything");
    svg
}

fn write(svg: &mut String, panels: &[Panel]) -> fmt::Result {
    let height = PANEL * panels.len() as f64;
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n<style>\n{STYLE}</style>"
    )?;
    for (at, panel) in panels.iter().enumerate() {
        writeln!(svg, "<g transform=\"translate(0 {})\">", at as f64 * PANEL)?;
        write_panel(svg, panel)?;
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    Ok(())
}

fn write_panel(svg: &mut String, panel: &Panel) -> fmt::Result {
    let right = WIDTH - RIGHT;
    let bottom = PANEL - BOTTOM;
    let x = |value| LEFT + panel.x.share(value) * (right - LEFT);
    let y = |value| bottom - panel.y.share(value) * (bottom - TOP);
    writeln!(
        svg,
        "<text class=\"title\" x=\"{LEFT}\" y=\"20\">{}</text>",
        panel.title
    )?;
    let middle = f64::midpoint(TOP, bottom);
    writeln!(
        svg,
        "<text x=\"16\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {middle})\">{}</text>",
        panel.y_title
    )?;
    if let Some((from, to)) = panel.shaded {
        let (from, width) = (x(from), x(to) - x(from));
        let height = bottom - TOP;
        writeln!(
            svg,
            "<rect class=\"shade\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"/>"
        )?;
    }
    for mark in panel.y.marks() {
        let (at, label) = (y(mark), round(mark));
        writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>")?;
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 6.0,
            at + 4.0
        )?;
    }
    for mark in panel.x.marks() {
        let (at, label) = (x(mark), round(mark));
        writeln!(svg, "<path class=\"grid\" d=\"M{at:.1} {bottom}v5\"/>")?;
        writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 18.0
        )?;
    }
    let middle = f64::midpoint(LEFT, right);
    writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        bottom + 36.0,
        panel.x_title
    )?;
    for (at, curve) in panel.curves.iter().enumerate() {
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
            .collect();
        let look = look(curve.variant);
        writeln!(svg, "<polyline {look} points=\"{}\"/>", points.join(" "))?;
        if points.len() <= MEASURED {
            write_dots(svg, curve.variant, &points)?;
        }
        let row = TOP + 14.0 + 20.0 * at as f64;
        let from = right + 12.0;
        writeln!(svg, "<path {look} d=\"M{from} {}h22\"/>", row - 4.0)?;
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{row}\">{}</text>",
            from + 28.0,
            curve.variant.name()
        )?;
    }
    Ok(())
}

/// Where curves of few points were measured.
fn write_dots(svg: &mut String, variant: Variant, points: &[String]) -> fmt::Result {
    let colour = look(variant).split('"').nth(3).unwrap_or_default();
    for (x, y) in points.iter().filter_map(|point| point.split_once(',')) {
        writeln!(
            svg,
            "<circle fill=\"{colour}\" cx=\"{x}\" cy=\"{y}\" r=\"3\"/>"
        )?;
    }
    Ok(())
}

/// Class, colour and dashes.
fn look(variant: Variant) -> &'static str {
    match variant {
        Variant::BackPressure => "class=\"curve ours\" stroke=\"#0072b2\"",
        Variant::LoadShed => "class=\"curve ours\" stroke=\"#3fa7e0\" stroke-dasharray=\"8 4\"",
        Variant::NoLimit => "class=\"curve\" stroke=\"#8c959f\"",
        Variant::TowerTuned => "class=\"curve\" stroke=\"#009e73\"",
        Variant::TowerHigh => "class=\"curve\" stroke=\"#009e73\" stroke-dasharray=\"6 3\"",
        Variant::TowerLow => "class=\"curve\" stroke=\"#009e73\" stroke-dasharray=\"2 3\"",
        Variant::LittleLoadshedder => "class=\"curve\" stroke=\"#d55e00\"",
        Variant::ResilienceAimd => "class=\"curve\" stroke=\"#cc79a7\"",
        Variant::ResilienceVegas => "class=\"curve\" stroke=\"#cc79a7\" stroke-dasharray=\"6 3\"",
        Variant::Bare503 => "class=\"curve\" stroke=\"#8c959f\" stroke-dasharray=\"2 3\"",
    }
}

/// Without the noise of binary fractions.
fn round(mark: f64) -> f64 {
    (mark * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_where_they_should() {
        let load = Axis::Logarithmic {
            from: 0.1,
            to: 10.0,
        };
        assert_eq!(load.share(1.0), 0.5);
        assert_eq!(load.share(100.0), 1.0);
        assert_eq!(Axis::Linear { to: 4.0 }.share(1.0), 0.25);
        assert_eq!(Axis::Linear { to: 1.1 }.marks().len(), 6);
        assert_eq!(
            Axis::Logarithmic {
                from: 0.5,
                to: 10.0
            }
            .marks(),
            [0.5, 1.0, 2.0, 5.0, 10.0]
        );
    }

    #[test]
    fn a_curve_is_drawn_with_its_name() {
        let panel = Panel {
            title: "goodput".to_owned(),
            x_title: "load",
            y_title: "share".to_owned(),
            x: Axis::Linear { to: 2.0 },
            y: Axis::Linear { to: 1.0 },
            shaded: Some((0.5, 1.0)),
            curves: vec![Curve {
                variant: Variant::NoLimit,
                points: vec![(0.0, 0.0), (2.0, 1.0)],
            }],
        };
        let svg = draw(&[panel]);
        assert!(svg.contains("points=\"64.0,276.0 570.0,34.0\""), "{svg}");
        assert_eq!(svg.matches("<circle fill=\"#8c959f\"").count(), 2);
        assert!(svg.contains(">no-limit</text>"));
        assert!(svg.ends_with("</svg>\n"));
    }
}
