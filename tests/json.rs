//! The scanner on edge cases of JSON: values, strings, objects and whole lines, well formed or not.
//!
//! Each case is a literal with its expected result. It is read whole and in small parts, by the scanner
//! alone and by a run, which has the sieve in front. The valid lines around it must count in any case.

use budget_tee::run::Run;
use budget_tee::stream::paths::{Owner, TextField};
use budget_tee::stream::record::Record;
use budget_tee::stream::scan::Scanner;

/// The expected result of a line: `None` if it does not count, else its `input_tokens` if it has a usage.
type Expected = Option<Option<u64>>;

const BROKEN: Expected = None;
const NO_USAGE: Expected = Some(None);
const SEVEN: Expected = Some(Some(7));
const FIVE: Expected = Some(Some(5));

const SEVEN_LINE: &str = r#"{"type":"assistant","message":{"usage":{"input_tokens":7}}}"#;
const FIVE_LINE: &[u8] = br#"{"type":"assistant","message":{"usage":{"input_tokens":5}}}"#;

/// The cases of a table, which are separated by at least two spaces.
fn cases(table: &str) -> impl Iterator<Item = &str> {
    table.split("  ").flat_map(str::lines).map(str::trim).filter(|case| !case.is_empty())
}

/// What `extract` returns for each line that counts, when the bytes come in parts of `size`.
fn scanned<T>(stream: &[u8], size: usize, extract: impl Fn(&Record) -> T) -> Vec<Option<T>> {
    let mut scanner = Scanner::default();
    let (mut all, mut has_element) = (Vec::new(), false);
    for mut part in stream.chunks(size) {
        while let Some(found) = scanner.next(&mut part) {
            // The end of a line behind an array's element says nothing more about the line.
            if found.record.is_some() || !has_element {
                all.push(found.record.map(&extract));
            }
            has_element = !found.ends_line;
        }
    }
    all.extend(scanner.last_line().filter(|_| !has_element).map(|found| found.record.map(&extract)));
    all
}

/// A run that has read the stream in parts of `size`.
fn ran(stream: &[u8], size: usize) -> Run {
    let mut run = Run::default();
    for part in stream.chunks(size) {
        assert_eq!(run.feed(part).taken, part.len(), "{}", stream.escape_ascii());
    }
    run.finish();
    run
}

/// Checks that the lines of the stream give the expected results.
fn check_stream(stream: &[u8], expected: &[Expected]) {
    let counts: Vec<_> = expected.iter().filter_map(|line| line.flatten()).collect();
    let sum = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
    for size in [1, 3, stream.len().max(1)] {
        let case = format!("in parts of {size}: {}", stream.escape_ascii());
        let found = scanned(stream, size, |record| record.usage(Owner::Message).map(|usage| usage.tokens.input));
        assert_eq!(found, expected, "scanned {case}");
        let told = |record: &Record| record.tells_usage(Owner::Message).then_some(0);
        let tells = scanned(stream, size, told).iter().any(|line| line.flatten().is_some());
        let run = ran(stream, size);
        assert_eq!(run.meter.total().tokens.input, sum, "run {case}");
        assert_eq!(run.meter.usage_seen(), tells, "run {case}");
        assert_eq!(run.lines(), expected.len() as u64, "run {case}");
    }
}

/// Checks that the line gives the expected result wherever it is, and that the lines around it count.
fn check(line: &[u8], expected: Expected) {
    // An empty stream has no line.
    check_stream(line, &[expected][..line.len().min(1)]);
    check_stream(&[line, b"\n"].concat(), &[expected]);
    check_stream(&[line, b"\r\n", FIVE_LINE].concat(), &[expected, FIVE]);
    check_stream(&[FIVE_LINE, b"\n", line, b"\n", FIVE_LINE, b"\n"].concat(), &[FIVE, expected, FIVE]);
}

fn as_unwanted(value: &[u8]) -> Vec<u8> {
    [br#"{"type":"assistant","x":"#, value, br#","message":{"usage":{"input_tokens":7}}}"#].concat()
}

fn as_count(value: &[u8]) -> Vec<u8> {
    [br#"{"type":"assistant","message":{"usage":{"input_tokens":"#, value, b"}}}"].concat()
}

fn as_id(value: &[u8]) -> Vec<u8> {
    [br#"{"type":"assistant","message":{"id":"#, value, br#","usage":{"input_tokens":7}}}"#].concat()
}

/// Checks that the value is skipped under a key that is not wanted, and read as `count` or `id` where
/// one of these is wanted.
fn check_value(value: &[u8], count: u64, id: Option<&str>) {
    check(&as_unwanted(value), SEVEN);
    check(&as_count(value), Some(Some(count)));
    let line = as_id(value);
    check(&line, SEVEN);
    // Lines with the same id are one message; without an id, or with an empty one, each is one.
    let twice = [&line, &b"\n"[..], &line].concat();
    for size in [1, twice.len()] {
        let found = scanned(&twice, size, |record| record.text(TextField::MessageId).map(str::to_owned));
        let id = id.map(str::to_owned);
        assert_eq!(found, [Some(id.clone()), Some(id.clone())], "{}", line.escape_ascii());
        let total = if id.as_deref().is_some_and(|id| !id.is_empty()) { 7 } else { 14 };
        assert_eq!(ran(&twice, size).meter.total().tokens.input, total, "{}", line.escape_ascii());
    }
}

#[test]
fn numbers() {
    for (number, count) in [
        ("0", 0),
        ("-0", 0),
        ("-0.0", 0),
        ("-3", 0),
        ("-3e-3", 0),
        ("-8E88", 0),
        ("36", 36),
        ("4.000", 4),
        ("4.001", 5),
        ("0.000000000000000000000000000006", 1),
        ("31e2", 3100),
        ("31E2", 3100),
        ("31e+2", 3100),
        ("31E+02", 3100),
        ("31e-1", 4),
        ("310E-1", 31),
        ("31e0", 31),
        ("31e-0", 31),
        ("3.14e2", 314),
        ("3.14e1", 32),
        ("0e7", 0),
        ("0E-7", 0),
        ("0.0e+700000000000000000000000", 0),
        ("0.6e0000000000000000000000000000000000000001", 6),
        ("600000000000000000000000e-23", 6),
        ("9007199254740995", 9_007_199_254_740_995),
        ("9223372036854775808", 9_223_372_036_854_775_808),
        ("18446744073709551614", u64::MAX - 1),
        ("18446744073709551613.1", u64::MAX - 1),
        ("18446744073709551615", u64::MAX),
        ("18446744073709551616", u64::MAX),
        ("1844674407370955161500000e-5", u64::MAX),
        ("5e19", u64::MAX),
        ("66.6e66", u64::MAX),
        ("2e400", u64::MAX),
        ("2e44444444444444444444444", u64::MAX),
        ("2e-44444444444444444444444", 1),
    ] {
        check_value(number.as_bytes(), count, None);
    }
}

#[test]
fn malformed_numbers_are_absent() {
    let table = r"
        +3      -       +       --3     +-3     -+3     03      -03     00      -00     000.5   3.
        -3.     .3      -.3     .       3.e2    3e      3E      3e+     3e-     0e      3ee2    3e2e2
        3e2.5   3e+-2   e3      3.3.3   3..3    3-      3-1     3+4     3*4     3/4     0x1f    0b11
        0o17    3_000   3'000   3n      3f      3L      3%      $3      (3)     3;      #3      3=3
        \3      \u0033  NaN     -NaN    nan     inf     Infinity        -Infinity       3:4     3\
        ３      ٣       ²       ½       ∞       −3      3·10    <3>     1e١
    ";
    for text in cases(table) {
        check_value(text.as_bytes(), 0, None);
    }
    for text in ["3\u{a0}", "\u{a0}3", "\u{feff}3", "3\u{b}", "\u{c}3", "3\0", "\u{7f}", "\u{2028}3"] {
        check_value(text.as_bytes(), 0, None);
    }
    for bytes in [b"3\xff" as &[u8], b"\xff", b"3e\xe5", b"\xc0\xb3", b"\xef\xbc"] {
        check_value(bytes, 0, None);
    }
}

#[test]
fn literals() {
    let table = r"
        true        false       null        True        FALSE       Null        tru         fals
        nul         truee       nulll       truefalse   true1       t           undefined   None
        nil         yes         x           '3'         `3`         \n          tr\u0075e   тrue
        @           ~           &amp;       <null/>     //          /*3*/       void(0)     -null
    ";
    for text in cases(table) {
        check_value(text.as_bytes(), 0, None);
    }
}

#[test]
fn strings() {
    for (text, id) in [
        (r#""""#, ""),
        (r#"" ""#, " "),
        (r#""3""#, "3"),
        (r#""null""#, "null"),
        (r#""'""#, "'"),
        (r#""/*no*/ //no""#, "/*no*/ //no"),
        (r#""{[,:]}""#, "{[,:]}"),
        (r#""]}}}""#, "]}}}"),
        (r#""\"\\\/""#, "\"\\/"),
        (r#""\b\f\n\r\t""#, "\u{8}\u{c}\n\r\t"),
        (r#""\\""#, "\\"),
        (r#""\\\\\\""#, "\\\\\\"),
        (r#""\\\"""#, "\\\""),
        (r#""\\n""#, "\\n"),
        (r#""\\u0041""#, "\\u0041"),
        (r#""\u0041\u005A""#, "AZ"),
        (r#""\u00e9\u00E9""#, "éé"),
        (r#""\u0000""#, "\0"),
        (r#""\u0022\u005c""#, "\"\\"),
        (r#""\u000a\u000d""#, "\n\r"),
        (r#""\u001f\u007f\u0080""#, "\u{1f}\u{7f}\u{80}"),
        (r#""\u2028\u2029\ufeff""#, "\u{2028}\u{2029}\u{feff}"),
        (r#""\ufdd0\uffff\ufffd""#, "\u{fdd0}\u{ffff}\u{fffd}"),
        (r#""\ud83e\udd80""#, "🦀"),
        (r#""\uD83E\uDD80!""#, "🦀!"),
        (r#""\udbff\udfff""#, "\u{10ffff}"),
        (r#""\ud7ff\ue000""#, "\u{d7ff}\u{e000}"),
        (r#""é 漢 🦀""#, "é 漢 🦀"),
        (r#""é\u6f22🦀\"""#, "é漢🦀\""),
        ("\"\u{feff}\u{2028}\u{a0}\"", "\u{feff}\u{2028}\u{a0}"),
        ("\"\u{7f}\u{85}\u{fffe}\"", "\u{7f}\u{85}\u{fffe}"),
        ("\"\u{10ffff}\"", "\u{10ffff}"),
        (r#""\"usage\":{\"input_tokens\":9}""#, "\"usage\":{\"input_tokens\":9}"),
    ] {
        check_value(text.as_bytes(), 0, Some(id));
    }
}

#[test]
fn invalid_escapes_are_taken_literally() {
    let table = r#"
        "\a"        "\'"        "\0"        "\x41"      "\N\U0041"      "\ "        "\é"
        "\u"        "\u00"      "\u004"     "\u00g1"    "\u+041"        "\u{41}"    "\u 041"
        "\u-001"    "\ud83e\u"  "\u00\""    "\ud83e\udd8"               "\e\n"      "\\\a"
    "#;
    // The others contain bytes that JSON requires to be escaped.
    for text in cases(table).chain(["\"a\tb\"", "\"a\rb\"", "\"\0\"", "\"\u{1}\u{1f}\""]) {
        check_value(text.as_bytes(), 0, Some(&text[1..text.len() - 1]));
    }
    check_value(b"\"\x01\\n\x1f\"", 0, Some("\u{1}\n\u{1f}"));
}

/// What a lone surrogate is read as; its own three bytes would be invalid UTF-8.
const LONE_SURROGATE: &str = "\u{fffd}\u{fffd}\u{fffd}";

#[test]
fn lone_surrogates_do_not_affect_the_text_around_them() {
    for (text, id) in [
        (r#""\ud83e""#, LONE_SURROGATE.to_owned()),
        (r#""\udd80""#, LONE_SURROGATE.to_owned()),
        (r#""a\ud83eb""#, format!("a{LONE_SURROGATE}b")),
        (r#""\udd80\ud83e""#, LONE_SURROGATE.repeat(2)),
        (r#""\ud83e\ud83e\udd80""#, format!("{LONE_SURROGATE}🦀")),
        (r#""\ud83e\n""#, format!("{LONE_SURROGATE}\n")),
        (r#""\ud83e\u0041""#, format!("{LONE_SURROGATE}A")),
        (r#""\ud83e\\udd80""#, format!("{LONE_SURROGATE}\\udd80")),
    ] {
        check_value(text.as_bytes(), 0, Some(&id));
    }
}

#[test]
fn strings_with_invalid_utf8() {
    for (text, id) in [
        (b"\"\xff\"" as &[u8], "\u{fffd}"),
        (b"\"\xfe\xff\"", "\u{fffd}\u{fffd}"),
        (b"\"caf\xe9\"", "caf\u{fffd}"),
        (b"\"\x80\"", "\u{fffd}"),
        (b"\"a\xbfb\"", "a\u{fffd}b"),
        (b"\"\xc3\"", "\u{fffd}"),
        (b"\"\xc3(\"", "\u{fffd}("),
        (b"\"\xe6\xbc\"", "\u{fffd}"),
        (b"\"\xf0\x9f\xa6\"", "\u{fffd}"),
        (b"\"\xf0\x9f\xa6\\n\"", "\u{fffd}\n"),
        // Overlong encodings.
        (b"\"\xc0\xaf\"", "\u{fffd}\u{fffd}"),
        (b"\"\xc0\xa2\"", "\u{fffd}\u{fffd}"),
        (b"\"\xe0\x80\xaf\"", "\u{fffd}\u{fffd}\u{fffd}"),
        // A surrogate encoded as UTF-8, and a code point beyond Unicode.
        (b"\"\xed\xa0\x80\"", LONE_SURROGATE),
        (b"\"\xed\xa0\x80\\t\"", "\u{fffd}\u{fffd}\u{fffd}\t"),
        (b"\"\xf4\x90\x80\x80\"", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
        (b"\"\\\xff\"", "\\\u{fffd}"),
        (b"\"\\u00\xff\"", "\\u00\u{fffd}"),
    ] {
        check_value(text, 0, Some(id));
    }
}

#[test]
fn arrays() {
    let table = r#"
        []          [ ]         [3]         [3,4]       [3, 4 ]     [[]]        [[[[3]]],[]]
        [""]        ["]"]       ["}"]       ["\"]"]     ["\\"]      ["\\\"["]   [null,true,"a",{}]
        [3,]        [,3]        [,]         [3,,4]      [,,]        [[],]       ["usage"]
        [3 4]       [3:4]       [3;4]       ["a" "b"]   ["a""b"]    ["a":3]     ["a",,]
        [x]         [-]         [03]        [3.]        [1e]        [NaN]       [tru]
        ['a']       [\n]        ["\x"]      ["\u12"]    ["\ud83e"]  [/*3*/]     [3 // 4 ]
        [#]         [...]       [(]         [3}         [{]}        [{"usage":{"input_tokens":9}}]
    "#;
    for array in cases(table) {
        check_value(array.as_bytes(), 0, None);
    }
    for array in ["[\t\r]", "[\"a\tb\"]", "[\u{feff}]", "[\u{b}]", "[\0]", "[\u{a0}3]"] {
        check_value(array.as_bytes(), 0, None);
    }
    for array in [b"[\xff]" as &[u8], b"[\"\xff\"]", b"[\"\xc3\"]", b"[\xed\xa0\x80]", b"[\"\\\xff\"]"] {
        check_value(array, 0, None);
    }
    let deep = "[".repeat(2_000) + &"]".repeat(2_000);
    check_value(deep.as_bytes(), 0, None);
}

#[test]
fn objects() {
    let table = r#"
        {}                  { }                 {"a":3}             {"a":3,"b":4}       {"":3}
        {"\u0000":3}        {"a":3,"a":4}       {"a":{"a":[]}}      {"}":"{"}           {"\"}":"\\"}
        {"a":3,}            {,"a":3}            {,}                 {"a":3,,"b":4}      {"a":3 "b":4}
        {"a"}               {"a":}              {"a",3}             {"a" 3}             {"a"::3}
        {"a":3:4}           {"a"=3}             {"a":3;"b":4}       {:3}                {:}
        {a:3}               {'a':3}             {3:4}               {null:3}            {[]:3}
        {{}:3}              {"a":3/**/}         {"a":03}            {"\x":3}            {"\ud83e":3}
        {"a":3]             {[}]                {"a":"}"}           {"a":"\"}"}         {"a" : [ ] }
        {"input_tokens":9}                      {"usage":{"input_tokens":9}}
        {"message":{"usage":{"input_tokens":9}}}
        {"type":"result","usage":{"input_tokens":9}}
    "#;
    for object in cases(table) {
        check_value(object.as_bytes(), 0, None);
    }
    for object in ["{\t\r}", "{\"a\t\":3}", "{\"a\":3\u{b}}", "{\u{feff}\"a\":3}"] {
        check_value(object.as_bytes(), 0, None);
    }
    for object in [b"{\"\xff\":3}" as &[u8], b"{\xff:3}", b"{\"\xc3\":\"\xc3\"}"] {
        check_value(object, 0, None);
    }
    let deep = r#"[{"usage":"#.repeat(1_000) + &"}]".repeat(1_000);
    check_value(deep.as_bytes(), 0, None);
}

#[test]
fn unclosed_and_multiple_values_invalidate_the_line() {
    // Incomplete values.
    let parts = r#"
        ,           :           ]           [           {           [3          [3,         [[]
        [{}         {"a"        {"a":       {"a":3      {"a":[]     {"a         {"a":"}     [[[[
        "           "a          "\          "\"         "\\\"       "\u         ["          ["a]
        ["\"]       []]         3]          null]       "a"]        [3]]        {}]         ["a"
    "#;
    // Several values, or an incomplete pair of key and value.
    let several = r#"
        3 4         true false  "a" "b"     "a""b"      "a"3        [] []       [][]        []3
        {} {}       {}{}        {}3         [] x        "a" x       3 /**/      // 3        3,
        ,3          3,4         3,"y"       3,"y":      3,[]        3,{}        3,,"y":4    3,y:4
        3 :4        "a":3       []:3        {}:3        ::          :3          3 =         3,'y':4
    "#;
    for text in cases(parts).chain(cases(several)).chain(["", " ", "\t\r"]) {
        for line in [as_unwanted(text.as_bytes()), as_count(text.as_bytes()), as_id(text.as_bytes())] {
            check(&line, BROKEN);
        }
    }
}

#[test]
fn an_object_closed_early_counts_with_what_it_had() {
    for text in ["3}", "null}", "\"a\"}", "[]}", "{}}", "3 }", "{} } [", "3} \"", "3,\"y\":4}"] {
        check(&as_unwanted(text.as_bytes()), NO_USAGE);
    }
    for text in ["7}}}", "7}}} [", "7 } } } \"", "7},\"a\":[3}}}", "7,\"y\":8}}}{\"usage\":{\"input_tokens\":9"] {
        check(&as_count(text.as_bytes()), SEVEN);
    }
}

#[test]
fn lines_that_are_not_objects() {
    let table = r#"
        null        true        false       3           -           -3.5e3      "           ""
        "usage"     "{}"        [           ]           []
        {           }           ,           :           {]          {,}         {:}         {{}}
        {[]}        {"          {"a"        {"a"}       {"a":       {"a":}      {"a":3      {"a":3,
        {"a":3,}    {"a":3]     {"a":"      {"a":"}     {"a":"\"}   {"a":[}     {"a":{}     {"a" "b"}
        {"a":3 4}   {"a",3}     {"a"=3}     {"a";3}     {a:3}       {'a':3}     {3:4}       {null:3}
        {"a":3,,"b":4}          {//"a":3}   {/**/}      {...}       x           <a/>        \u007b}
        ｛｝
    "#;
    for line in cases(table).chain(["", " ", "\t", "\r", " \r", "\0", "\u{c}", "\u{a0}", "\u{feff}"]) {
        check(line.as_bytes(), BROKEN);
    }
    for line in ["\u{feff}\u{feff}", "{\0}", "{\u{feff}}", "{\u{a0}}", "{\u{c}}"] {
        check(line.as_bytes(), BROKEN);
    }
    for line in [b"\xff" as &[u8], b"\xef", b"\xef\xbb", b"\xff\xfe{\0}\0", b"\xfe\xff\0{\0}"] {
        check(line, BROKEN);
    }
    for deep in ["[", "{\"usage\":", "{\"x\":["] {
        check(deep.repeat(1_000).as_bytes(), BROKEN);
    }
}

#[test]
fn objects_without_usage() {
    let table = r#"
        {}              { }             {}{             {}}             {}x             {}"
        {} {}           {},             {"a":3}         {"":""}         {"a":tru}       {"a":[3}}
        {"usage":3}     {"message":null}                {"message":[]}  {"message":{}}
        '{}'            [{}]            [{"a":3}        x{}             #{}             //{}
        /**/{}          data: {}        ({})            \{}            \u{}           web-1 | {}
        {"input_tokens":7}              {"message":{"input_tokens":7}}  {"message":{"usage":7}}
        {"message":{"usage":[{"input_tokens":7}]}}      {"message.usage":{"input_tokens":7}}
        {"message":[{"usage":{"input_tokens":7}}]}      {"x":{"message":{"usage":{"input_tokens":7}}}}
    "#;
    for line in cases(table).chain([" {\t}\r", "{}\0", "\u{feff}{}", "\u{feff} {}", "\u{1e}{}"]) {
        check(line.as_bytes(), NO_USAGE);
    }
}

#[test]
fn text_around_an_object() {
    for (before, after, expected) in [
        ("", "", SEVEN),
        (" ", " ", SEVEN),
        ("\t\r ", "\t\r ", SEVEN),
        ("\u{feff}", "", SEVEN),
        ("\u{feff}\t", "\u{feff}", SEVEN),
        ("", "x", SEVEN),
        ("", "]", SEVEN),
        ("", "}}}", SEVEN),
        ("", ",", SEVEN),
        ("", "\"", SEVEN),
        ("", "\\", SEVEN),
        ("", "{\"a\":[", SEVEN),
        ("", "\0\u{c}\u{a0}", SEVEN),
        ("", r#" {"message":{"usage":{"input_tokens":9}}}"#, SEVEN),
        ("\u{feff}\u{feff}", "", SEVEN),
        ("\u{c}", "", SEVEN),
        ("\u{a0}", "", SEVEN),
        ("\u{200b}", "", SEVEN),
        ("\0", "", SEVEN),
        ("[", "]", SEVEN),
        ("[ ", "", SEVEN),
        ("{", "}", BROKEN),
        ("3", "", SEVEN),
        ("null ", "", SEVEN),
        ("\"\"", "", BROKEN),
        ("{}", "", NO_USAGE),
        ("{} ", "", NO_USAGE),
        ("}", "", SEVEN),
        (",", "", SEVEN),
        ("'", "'", SEVEN),
    ] {
        check(format!("{before}{SEVEN_LINE}{after}").as_bytes(), expected);
    }
    for before in [b"\xff" as &[u8], b"\xef", b"\xef\xbb", b"\xbb\xbf", b"\xef\xbf\xbb"] {
        check(&[before, SEVEN_LINE.as_bytes()].concat(), SEVEN);
    }
}

#[test]
fn only_whitespace_may_separate_tokens() {
    let tokens = r#"{ "type" : "assistant" , "message" : { "usage" : { "input_tokens" : 7 } } }"#;
    for space in ["", " ", "\t", "\r", "  \t\r\r "] {
        check(tokens.replace(' ', space).as_bytes(), SEVEN);
    }
    let gaps = [
        r#"{ "type":"assistant","message":{"usage":{"input_tokens":7}}}"#,
        r#"{"type" :"assistant","message":{"usage":{"input_tokens":7}}}"#,
        r#"{"type":"assistant" ,"message":{"usage":{"input_tokens":7}}}"#,
        r#"{"type":"assistant", "message":{"usage":{"input_tokens":7}}}"#,
        r#"{"type":"assistant","message":{"usage" :{"input_tokens":7}}}"#,
        r#"{"type":"assistant","message":{"usage":{"input_tokens":7} }}"#,
        r#"{"type":"assistant","message":{"usage":{"input_tokens":7}} }"#,
    ];
    for wrong in ["\u{b}", "\u{c}", "\0", "\u{85}", "\u{a0}", "\u{2028}", "\u{feff}", "/**/", "\\", "x", ",,", ";", "'"]
    {
        for gap in gaps {
            check(gap.replace(' ', wrong).as_bytes(), BROKEN);
        }
    }
}

#[test]
fn keys_are_compared_after_decoding() {
    for (key, count) in [
        ("input_tokens", 7),
        (r"\u0069nput_tokens", 7),
        (r"input\u005ftokens", 7),
        (r"input\u005Ftokens", 7),
        (r"\u0069\u006e\u0070\u0075\u0074\u005f\u0074\u006f\u006b\u0065\u006e\u0073", 7),
        ("", 0),
        ("Input_tokens", 0),
        ("input_tokens ", 0),
        (" input_tokens", 0),
        (r"input_tokens\u0000", 0),
        ("input_tokens\0", 0),
        ("input_token", 0),
        ("input\\_tokens", 0),
        (r"\input_tokens", 0),
        (r"\u0069nput\q_tokens", 0),
        (r"\u69nput_tokens", 0),
        (r"\\u0069nput_tokens", 0),
        (r#"\"input_tokens\""#, 0),
        (r"\ud83einput_tokens", 0),
        ("\u{feff}input_tokens", 0),
        ("\u{456}nput_tokens", 0),
    ] {
        let line = format!(r#"{{"type":"assistant","message":{{"usage":{{"{key}":7}}}}}}"#);
        check(line.as_bytes(), Some(Some(count)));
    }
    for (key, expected) in [
        (r"\u0075sage", SEVEN),
        (r"usa\u0067e", SEVEN),
        (r"\u0055sage", NO_USAGE),
        (r"usage\n", NO_USAGE),
        (r"usage\/", NO_USAGE),
        (r"\u00075sage", NO_USAGE),
        (r"\\u0075sage", NO_USAGE),
        (r"\usage", NO_USAGE),
    ] {
        let line = format!(r#"{{"type":"assistant","message":{{"{key}":{{"input_tokens":7}}}}}}"#);
        check(line.as_bytes(), expected);
    }
    for key in [b"us\xc1\xa1ge" as &[u8], b"usage\xff", b"\xffusage", b"us\\u0061ge\xc3"] {
        let line = [br#"{"type":"assistant","message":{""#, key, br#"":{"input_tokens":7}}}"#].concat();
        check(&line, NO_USAGE);
    }
}

#[test]
fn the_last_of_duplicate_keys_counts() {
    for (pairs, expected) in [
        (r#""message":{"usage":{"input_tokens":9,"input_tokens":7}}"#, SEVEN),
        (r#""message":{"usage":{"input_tokens":9,"input\u005ftokens":7}}"#, SEVEN),
        (r#""message":{"usage":{"input\u005ftokens":9,"input_tokens":7}}"#, SEVEN),
        (r#""message":{"usage":{"input_tokens":"9","input_tokens":7}}"#, SEVEN),
        (r#""message":{"usage":{"input_tokens":09,"input_tokens":7}}"#, SEVEN),
        (r#""message":{"usage":{"input_tokens":{"input_tokens":9},"input_tokens":7}}"#, SEVEN),
        (r#""message":{"usage":{"input_tokens":7,"Input_tokens":9}}"#, SEVEN),
        (r#""message":{"usage":{"input_tokens":7,"x":1,"x":2,"x":[3}}}"#, SEVEN),
        (r#""message":{"usage":{"input_tokens":7,"input_tokens":null}}"#, Some(Some(0))),
        (r#""message":{"usage":{"input_tokens":7,"input_tokens":7.}}"#, Some(Some(0))),
        (r#""message":{"usage":{"input_tokens":7,"input_tokens":[7]}}"#, Some(Some(0))),
        (r#""message":{"usage":{"input_tokens":7,"input_tokens":-1}}"#, Some(Some(0))),
        (r#""message":{"usage":{"input_tokens":9},"usage":{"input_tokens":7}}"#, SEVEN),
        (r#""message":{"usage":[],"usage":{"input_tokens":7}}"#, SEVEN),
        (r#""message":{"usage":{"input_tokens":7},"usage":{}}"#, Some(Some(0))),
        (r#""message":{"usage":{"input_tokens":7},"us\u0061ge":{}}"#, Some(Some(0))),
        (r#""message":{"usage":{"input_tokens":7},"usage":tru}"#, NO_USAGE),
        (r#""message":{"usage":{"input_tokens":7},"usage":[{"input_tokens":9}]}"#, NO_USAGE),
        (r#""message":{"usage":{"input_tokens":9}},"message":{"usage":{"input_tokens":7}}"#, SEVEN),
        (r#""message":"x","message":{"usage":{"input_tokens":7}}"#, SEVEN),
        (r#""message":{"usage":{"input_tokens":7}},"message":{}"#, NO_USAGE),
        (r#""message":{"usage":{"input_tokens":7}},"message":null"#, NO_USAGE),
        (r#""message":{"usage":{"input_tokens":7}},"message":{"usage":3}"#, NO_USAGE),
        (r#""type":3,"type":"assistant","message":{"usage":{"input_tokens":7}}"#, SEVEN),
    ] {
        check(format!(r#"{{"type":"assistant",{pairs}}}"#).as_bytes(), expected);
    }
    check_value(br#""a","id":"b""#, 0, Some("b"));
}

#[test]
fn a_newline_ends_the_line_even_inside_an_open_value() {
    for (stream, expected) in [
        ("\n\r", &[BROKEN, BROKEN][..]),
        ("\r\n\r", &[BROKEN, BROKEN]),
        ("{\n}", &[BROKEN, BROKEN]),
        ("{}\n{}", &[NO_USAGE, NO_USAGE]),
        ("{}\r{}", &[NO_USAGE]),
        ("{\"a\":\n3}", &[BROKEN, BROKEN]),
        ("{\"a\nb\":3}", &[BROKEN, BROKEN]),
        ("{\"a\":\"b\\\n\"}", &[BROKEN, BROKEN]),
        ("{\"a\":\"b\\\r\n{}", &[BROKEN, NO_USAGE]),
        ("{\"a\":\"\\ud83e\n\\udd80\"}", &[BROKEN, BROKEN]),
        ("{\"a\":3\n,\"b\":4}", &[BROKEN, BROKEN]),
        ("{\"a\":[\n]}\n{}", &[BROKEN, BROKEN, NO_USAGE]),
        ("{\"message\":{\"usage\":{\"input_tokens\":7\n}}}", &[BROKEN, BROKEN]),
        ("{\"message\":{\"usage\":{\"input_tokens\":7}}\n}", &[BROKEN, BROKEN]),
        ("\u{feff}\n{}", &[BROKEN, NO_USAGE]),
        ("{}\n\u{feff}{}\n\u{feff}", &[NO_USAGE, NO_USAGE, BROKEN]),
        ("{} x\u{2028}\u{85}\u{b}{}", &[NO_USAGE]),
    ] {
        check_stream(stream.as_bytes(), expected);
        let followed = [stream.as_bytes(), b"\n", FIVE_LINE].concat();
        check_stream(&followed, &[expected, &[FIVE]].concat());
    }
    // A line cut short at any byte does not count.
    let line = r#"{"type":"assistant","x":["\"\u00e9é",{}],"message":{"id":"\\","usage":{"input_tokens":7e0}}}"#;
    check(line.as_bytes(), SEVEN);
    for end in 0..line.len() {
        check(&line.as_bytes()[..end], BROKEN);
    }
}
