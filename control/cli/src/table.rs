//! Aligned columns.

use std::fmt::{self, Display};

use unicode_width::UnicodeWidthStr;

/// Rows of text under a line of headings, two spaces apart.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

struct Column {
    heading: &'static str,
    right: bool,
}

impl Table {
    /// An empty table. A heading that begins with `>` has its column aligned to the right.
    pub fn new<const N: usize>(headings: [&'static str; N]) -> Self {
        let column = |heading: &'static str| match heading.strip_prefix('>') {
            Some(heading) => Column { heading, right: true },
            None => Column { heading, right: false },
        };
        Self { columns: headings.map(column).into(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        // Control characters in a key or a file name must not reach the terminal.
        self.rows.push(cells.map(|cell| printable(&cell)).into());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The text with control characters escaped, so that names cannot steer the terminal.
pub fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let escape = |letter: char| match letter {
        letter if letter.is_control() => letter.escape_default().to_string(),
        letter => letter.to_string(),
    };
    text.chars().map(escape).collect()
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings: Vec<String> = self.columns.iter().map(|column| column.heading.to_owned()).collect();
        let rows = || std::iter::once(&headings).chain(&self.rows);
        let widest = |at: usize| rows().map(|row| row[at].width()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(widest).collect();
        for row in rows() {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                let gap = " ".repeat(widths[at] - cell.width());
                let (before, after) =
                    if self.columns[at].right { (gap.as_str(), "") } else { ("", gap.as_str()) };
                line += &format!("{before}{cell}{after}  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["NAME", ">SIZE", "STATE"]);
        table.row(["a".into(), "1.0 GiB".into(), "alive".into()]);
        table.row(["鍵/longer".into(), "7 B".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "NAME          SIZE  STATE\n\
             a          1.0 GiB  alive\n\
             鍵/longer      7 B\n"
        );
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let mut table = Table::new(["NAME"]);
        table.row(["a\u{1b}[2J\nb".into()]);
        assert_eq!(table.to_string(), "NAME\na\\u{1b}[2J\\nb\n");
        assert_eq!(printable("ключ"), "ключ");
    }
}
