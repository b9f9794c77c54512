//! What others wrote, as it may reach a terminal: nothing in it moves the cursor, changes colours or turns text around.

/// For people: lines after the first are indented, so that none passes for one of ours.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\n    "),
            c if is_odd(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// JSON that says the same.
pub(crate) fn json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if is_odd(c) {
            // All of them have four digits, and are inside of strings: this program writes its JSON without spaces.
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Control characters, separators of lines, and what sets the direction of text. What joins letters and signs may stay.
fn is_odd(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    c.is_control() || turns || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_in_words() {
        for (said, line) in [
            ("hi \u{1f468}\u{200d}\u{1f467} żółć 家族", "hi \u{1f468}\u{200d}\u{1f467} żółć 家族"),
            ("\u{1b}[2Jgone\u{7}", "\\u{1b}[2Jgone\\u{7}"),
            ("a\r\nbert: pay", "a\\u{d}\n    bert: pay"),
            ("\u{202e}txt.exe\u{2066}\u{9b}31m\u{7f}", "\\u{202e}txt.exe\\u{2066}\\u{9b}31m\\u{7f}"),
        ] {
            assert_eq!(shown(said), line);
            let written = json(&serde_json::json!({ "text": said }).to_string());
            assert!(!written.chars().any(is_odd), "{written}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap()["text"], said);
        }
    }
}
