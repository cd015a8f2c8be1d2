//! Draws median latency against the size of rooms and the number of members, with both goals.

use std::path::Path;

use anyhow::Context as _;
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{report::PlottedRoom, rooms::Shape};

/// Grey that is readable on white and on black.
const INK: RGBColor = RGBColor(0x80, 0x80, 0x80);
const MEASURED: RGBColor = RGBColor(0x1f, 0x88, 0xe5);
const GOAL: RGBColor = RGBColor(0xe5, 0x6b, 0x1f);

/// One half of the picture.
struct Panel {
    shape: Shape,
    title: &'static str,
    axis: &'static str,
    /// How many times the latency of the smallest room is allowed for the largest.
    goal: f64,
}

const PANELS: [Panel; 2] = [
    Panel {
        shape: Shape::Line,
        title: "Rooms of growing size",
        axis: "events of the room",
        goal: 1.3,
    },
    Panel {
        shape: Shape::Members,
        title: "Rooms with visibility \"joined\" and growing membership",
        axis: "members of the room",
        goal: 1.5,
    },
];

/// Writes the picture as SVG.
pub(crate) fn draw(rooms: &[PlottedRoom], path: &Path) -> anyhow::Result<()> {
    let area = SVGBackend::new(path, (960, 380)).into_drawing_area();
    for (panel, area) in PANELS.iter().zip(area.split_evenly((1, 2))) {
        let points: Vec<PlottedRoom> =
            rooms.iter().filter(|it| it.shape == panel.shape).copied().collect();
        panel.draw(&points, &area)?;
    }
    area.present()?;
    Ok(())
}

impl Panel {
    fn draw(
        &self,
        points: &[PlottedRoom],
        area: &DrawingArea<SVGBackend<'_>, Shift>,
    ) -> anyhow::Result<()> {
        let first = *points.first().context("no room of this shape")?;
        let last = points.last().context("no room of this shape")?.size;
        let goal = first.median_us * self.goal;
        let font = |size: u32| ("sans-serif", size).into_font().color(&INK);
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(44)
            .caption(self.title, font(16))
            .x_label_area_size(42)
            .y_label_area_size(54)
            .build_cartesian_2d((first.size..last.max(2)).log_scale(), 0.0..goal * 1.25)?;
        chart
            .configure_mesh()
            .axis_style(INK)
            .bold_line_style(INK.mix(0.35))
            .light_line_style(TRANSPARENT)
            .label_style(font(12))
            .axis_desc_style(font(13))
            .x_desc(self.axis)
            .y_desc("median latency, µs")
            .y_labels(6)
            .x_label_formatter(&|it| with_commas(*it))
            .y_label_formatter(&|it| format!("{it:.0}"))
            .draw()?;
        let line = [(first.size, goal), (last, goal)];
        chart
            .draw_series(DashedLineSeries::new(line, 6, 4, GOAL.stroke_width(2)))?
            .label(format!("goal: {} times the smallest room", self.goal))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], GOAL.stroke_width(2)));
        let measured = points.iter().map(|it| (it.size, it.median_us));
        chart
            .draw_series(LineSeries::new(measured, MEASURED.stroke_width(2)).point_size(4))?
            .label("measured")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], MEASURED.stroke_width(2)));
        chart.draw_series(points.iter().map(|it| {
            let label = format!("{:.0}", it.median_us);
            let style = font(12).pos(Pos::new(HPos::Center, VPos::Top));
            Text::new(label, (it.size, it.median_us * 0.97), style)
        }))?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .border_style(INK.mix(0.35))
            .label_font(font(12))
            .draw()?;
        Ok(())
    }
}

/// A number with a comma before each group of three digits.
fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
