//! Whose fault an HTTP answer is: the table of rules, read from `data/rules.toml`.
//!
//! A rule names the statuses it applies to, conditions that must all hold (`when`), conditions of
//! which none may (`unless`), and a fault. The first rule that matches decides, so the order of
//! the file is the order of trust: what an edge says of itself, then unambiguous headers, then
//! marks in the body, then what little is left. Matching is the agent's `engine::classify`; here
//! are only the words, their meaning and their validation. The number of a rule travels with each
//! failure, so a number is never given to another rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

/// The version of the file's grammar that this program reads.
pub const RULES_SCHEMA: u32 = 1;

/// How much of a response body a rule sees, in bytes. The longest error page that carries its
/// mark late is Cloudflare's, at about 7 kB; twice that leaves room. A larger value costs the
/// agent traffic on each failure.
pub const BODY_PREFIX_BYTES: usize = 16 * 1024;

/// The number of a rule on the wire; 0 means that no rule matched.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct RuleNumber(pub u16);

impl RuleNumber {
    /// No rule.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for RuleNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose fault an answer is, or what else it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The edge itself failed.
    Edge,
    /// The edge is healthy, or there is none: the servers behind it failed.
    Origin,
    /// The edge works but a host that its pages need (the rule's `aux`) does not.
    Aux,
    /// The site's own settings: its certificate, its DNS records, its account.
    Site,
    /// A bot wall: an answer, not an outage.
    Challenge,
    /// A refusal of this client: an answer, not an outage.
    Block,
    /// Something between the observer and the site answered in its place.
    Captive,
    /// A failure behind an edge, and nothing tells who made it.
    Unknown,
}

/// Statuses from `first` to `last`, both included; 100 to 999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    /// The lowest status.
    pub first: u16,
    /// The highest status.
    pub last: u16,
}

impl StatusRange {
    /// Whether the status lies in the range.
    #[must_use]
    pub const fn contains(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }
}

/// What is asked of the values of one header; any value may satisfy it, with any of the texts.
/// Texts are in lower case and compare without regard to ASCII case, values without outer white
/// space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTest {
    /// The header is there.
    Present,
    /// A value is one of these texts.
    Equals(Vec<String>),
    /// A value contains one of these texts.
    Contains(Vec<String>),
    /// A value begins with one of these texts.
    Prefix(Vec<String>),
}

/// A value inside a JSON body.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A text; compared exactly, for it is made for machines.
    Text(String),
}

/// Where a redirect leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redirect {
    /// To another registrable site.
    Foreign,
    /// To a host that is an address, or a name that only a local network resolves.
    Private,
}

/// What is known, from the catalogue, of an edge in front of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EdgeTest {
    /// None is known.
    None,
    /// Some edge is known.
    Known,
    /// The edge is this provider.
    Is(String),
}

/// One condition on a response. The set is closed: a new kind is a new schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// `{ header = "name" }`, with `equals`, `contains` or `prefix`, each a text or a list of them.
    Header {
        /// The header's name, in lower case.
        name: String,
        /// What is asked of its values.
        test: HeaderTest,
    },
    /// `{ body = "text" }` or `{ body = ["one", "another"] }`: the first
    /// [`BODY_PREFIX_BYTES`] of the body contain one of these texts. They are in lower case;
    /// the body is compared without regard to ASCII case.
    Body(Vec<String>),
    /// `{ json = "field.path", equals = value }` or `one_of = [values]`: the body is a JSON object
    /// and the field has one of these values.
    Json {
        /// Names of nested objects, outermost first.
        path: Vec<String>,
        /// The values that satisfy.
        one_of: Vec<Scalar>,
    },
    /// `{ media = "type/subtype" }`: the media type, without parameters, in lower case.
    Media(String),
    /// `{ redirect = "foreign" }` or `"private"`: where `Location` leads.
    Redirect(Redirect),
    /// `{ edge = "none" }`, `"known"` or a provider's id: what the catalogue knows.
    Edge(EdgeTest),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The number on the wire, from 1, never used again for another rule.
    pub number: RuleNumber,
    /// A stable dotted name, as `cloudflare.problem.cloudflare`.
    pub id: String,
    /// The provider whose mark the answer carries, as named in the catalogue; `None`: no
    /// particular one.
    pub provider: Option<String>,
    /// The host that failed beside the edge; `Some` exactly when the fault is [`Fault::Aux`].
    pub aux: Option<String>,
    /// Whose fault it is.
    pub fault: Fault,
    /// The statuses that the rule applies to; at least one range.
    pub status: Vec<StatusRange>,
    /// All of these hold.
    pub when: Vec<Condition>,
    /// None of these holds.
    pub unless: Vec<Condition>,
    /// One sentence for the page.
    pub text: String,
    /// The evidence: a level (V verified, R read, M from memory) and where it is from.
    pub source: String,
}

impl Rule {
    /// Whether the rule applies to the status at all.
    #[must_use]
    pub fn covers(&self, status: u16) -> bool {
        self.status.iter().any(|range| range.contains(status))
    }

    /// Whether the rule rests on a JSON body, that is on what an edge says of itself.
    #[must_use]
    pub fn reads_json(&self) -> bool {
        self.when.iter().any(|condition| matches!(condition, Condition::Json { .. }))
    }
}

/// The rules, in order of trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTable {
    version: u32,
    rules: Vec<Rule>,
    by_number: BTreeMap<RuleNumber, usize>,
}

impl RuleTable {
    /// The table in this program.
    ///
    /// # Panics
    ///
    /// Never in a program whose tests passed: one of them parses the same text.
    #[must_use]
    pub fn builtin() -> &'static Self {
        static TABLE: OnceLock<RuleTable> = OnceLock::new();
        TABLE.get_or_init(|| {
            Self::parse(include_str!("../data/rules.toml")).expect("a test parses this very text")
        })
    }

    /// Reads and checks a table.
    ///
    /// # Errors
    ///
    /// When the text is no TOML of this grammar, or a rule breaks what [`RuleError`] lists.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let raw: RawTable = toml::from_str(text).map_err(RuleError::Toml)?;
        if raw.schema != RULES_SCHEMA {
            return Err(RuleError::Schema { found: raw.schema });
        }
        let (mut by_number, mut ids) = (BTreeMap::new(), BTreeSet::new());
        let mut rules = Vec::with_capacity(raw.rule.len());
        for (index, raw_rule) in raw.rule.into_iter().enumerate() {
            let rule = raw_rule.check()?;
            if let Some(other) = by_number.insert(rule.number, index) {
                let other = rules.get(other).map(|rule: &Rule| rule.id.clone()).unwrap_or_default();
                return Err(RuleError::NumberTwice { number: rule.number, id: rule.id, other });
            }
            if !ids.insert(rule.id.clone()) {
                return Err(RuleError::IdTwice { id: rule.id });
            }
            rules.push(rule);
        }
        Ok(Self { version: raw.version, rules, by_number })
    }

    /// The version of the table's content; rises with each change.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The rules, first match wins.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule of this number; `None` for 0 and for numbers that this table does not know.
    #[must_use]
    pub fn get(&self, number: RuleNumber) -> Option<&Rule> {
        self.by_number.get(&number).and_then(|index| self.rules.get(*index))
    }

    /// The rule of this id.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// Every header that some condition reads, `content-type` and `location` included, in order.
    /// No other header can change a verdict.
    #[must_use]
    pub fn header_names(&self) -> BTreeSet<&str> {
        let conditions = self.rules.iter().flat_map(|rule| rule.when.iter().chain(&rule.unless));
        conditions
            .filter_map(|condition| match condition {
                Condition::Header { name, .. } => Some(name.as_str()),
                Condition::Media(_) => Some("content-type"),
                Condition::Redirect(_) => Some("location"),
                Condition::Body(_) | Condition::Json { .. } | Condition::Edge(_) => None,
            })
            .collect()
    }
}

/// Why a table is refused.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The text is no TOML of this grammar.
    #[error("reading the rule table as TOML")]
    Toml(#[source] toml::de::Error),
    /// The grammar is another one.
    #[error("the rule table has schema {found}, this program reads {RULES_SCHEMA}")]
    Schema {
        /// The schema in the text.
        found: u32,
    },
    /// A number is 0, which means "no rule" on the wire.
    #[error("rule {id:?} has number 0")]
    NumberZero {
        /// The rule.
        id: String,
    },
    /// Two rules have one number.
    #[error("rules {other:?} and {id:?} both have number {number}")]
    NumberTwice {
        /// The number.
        number: RuleNumber,
        /// The later rule.
        id: String,
        /// The earlier rule.
        other: String,
    },
    /// Two rules have one id.
    #[error("two rules have the id {id:?}")]
    IdTwice {
        /// The id.
        id: String,
    },
    /// An id or a provider's id is not made of lower-case words with dots, digits or hyphens.
    #[error("rule {id:?}: {name:?} is no id of lower-case words, digits, dots and hyphens")]
    Name {
        /// The rule.
        id: String,
        /// The name in question.
        name: String,
    },
    /// A status is not from 100 to 999, a range runs backwards, or there is none.
    #[error("rule {id:?}: status {found:?} is not a number or range from 100 to 999")]
    Status {
        /// The rule.
        id: String,
        /// The text in question; empty when there was no status at all.
        found: String,
    },
    /// `aux` is given without the fault of that name, or the fault without it.
    #[error("rule {id:?}: fault \"aux\" and an aux host go together")]
    Aux {
        /// The rule.
        id: String,
    },
    /// The text for the page, or the evidence, is empty.
    #[error("rule {id:?} lacks its text or its source")]
    Undocumented {
        /// The rule.
        id: String,
    },
    /// A condition is none of the closed set.
    #[error("rule {id:?}: a condition {problem}")]
    Condition {
        /// The rule.
        id: String,
        /// What is wrong with it.
        problem: ConditionProblem,
    },
}

/// What is wrong with a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionProblem {
    /// It does not have exactly one subject of header, body, json, media, redirect and edge.
    Subject,
    /// It has a test that its subject does not take, lacks one that it needs, or has two.
    Test,
    /// A text in it is empty, or a name in it has characters that no such name has.
    Text,
}

impl fmt::Display for ConditionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subject => "needs one subject of header, body, json, media, redirect, edge",
            Self::Test => "has a test that does not go with its subject",
            Self::Text => "has an empty or malformed text",
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    schema: u32,
    version: u32,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    number: u16,
    id: String,
    provider: Option<String>,
    aux: Option<String>,
    fault: Fault,
    status: Vec<RawStatus>,
    #[serde(default)]
    when: Vec<RawCondition>,
    #[serde(default)]
    unless: Vec<RawCondition>,
    text: String,
    source: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawStatus {
    One(u16),
    Range(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Equals {
    One(Scalar),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    header: Option<String>,
    body: Option<Texts>,
    json: Option<String>,
    media: Option<String>,
    redirect: Option<Redirect>,
    edge: Option<String>,
    equals: Option<Equals>,
    contains: Option<Texts>,
    prefix: Option<Texts>,
    one_of: Option<Vec<Scalar>>,
}

impl RawRule {
    fn check(self) -> Result<Rule, RuleError> {
        let id = self.id;
        if self.number == 0 {
            return Err(RuleError::NumberZero { id });
        }
        let names = [Some(&id), self.provider.as_ref(), self.aux.as_ref()];
        let malformed = names.into_iter().flatten().find(|name| !is_name(name)).cloned();
        if let Some(name) = malformed {
            return Err(RuleError::Name { id, name });
        }
        if self.aux.is_some() != (self.fault == Fault::Aux) {
            return Err(RuleError::Aux { id });
        }
        if self.text.trim().is_empty() || self.source.trim().is_empty() {
            return Err(RuleError::Undocumented { id });
        }
        let mut status = Vec::with_capacity(self.status.len());
        for raw in self.status {
            status.push(raw.check().map_err(|found| RuleError::Status { id: id.clone(), found })?);
        }
        if status.is_empty() {
            return Err(RuleError::Status { id, found: String::new() });
        }
        let conditions = |raw: Vec<RawCondition>| {
            let checked: Result<_, _> = raw.into_iter().map(RawCondition::check).collect();
            checked.map_err(|problem| RuleError::Condition { id: id.clone(), problem })
        };
        Ok(Rule {
            number: RuleNumber(self.number),
            provider: self.provider,
            aux: self.aux,
            fault: self.fault,
            status,
            when: conditions(self.when)?,
            unless: conditions(self.unless)?,
            text: self.text,
            source: self.source,
            id,
        })
    }
}

impl RawStatus {
    fn check(self) -> Result<StatusRange, String> {
        let (range, found) = match self {
            Self::One(status) => {
                (Some(StatusRange { first: status, last: status }), status.to_string())
            }
            Self::Range(text) => {
                let ends = text.split_once('-').map(|(first, last)| (first.parse(), last.parse()));
                let range = match ends {
                    Some((Ok(first), Ok(last))) => Some(StatusRange { first, last }),
                    _ => None,
                };
                (range, text)
            }
        };
        range
            .filter(|range| 100 <= range.first && range.first <= range.last && range.last <= 999)
            .ok_or(found)
    }
}

impl RawCondition {
    fn check(self) -> Result<Condition, ConditionProblem> {
        let tests = (self.equals, self.contains, self.prefix, self.one_of);
        let tests_given = usize::from(tests.0.is_some())
            + usize::from(tests.1.is_some())
            + usize::from(tests.2.is_some())
            + usize::from(tests.3.is_some());
        if tests_given > 1 {
            return Err(ConditionProblem::Test);
        }
        let untested = |condition| match tests_given {
            0 => Ok(condition),
            _ => Err(ConditionProblem::Test),
        };
        match (self.header, self.body, self.json, self.media, self.redirect, self.edge) {
            (Some(name), None, None, None, None, None) => {
                let name = Some(name).filter(|name| is_header_name(name));
                let name = name.ok_or(ConditionProblem::Text)?;
                let test = match tests {
                    (None, None, None, None) => HeaderTest::Present,
                    (Some(Equals::One(Scalar::Text(text))), ..) => {
                        HeaderTest::Equals(Texts::One(text).lower()?)
                    }
                    (Some(Equals::Many(texts)), ..) => {
                        HeaderTest::Equals(Texts::Many(texts).lower()?)
                    }
                    (_, Some(texts), ..) => HeaderTest::Contains(texts.lower()?),
                    (_, _, Some(texts), _) => HeaderTest::Prefix(texts.lower()?),
                    _ => return Err(ConditionProblem::Test),
                };
                Ok(Condition::Header { name, test })
            }
            (None, Some(body), None, None, None, None) => untested(Condition::Body(body.lower()?)),
            (None, None, Some(path), None, None, None) => {
                let path: Vec<String> = path.split('.').map(str::to_owned).collect();
                if path.iter().any(String::is_empty) {
                    return Err(ConditionProblem::Text);
                }
                let one_of = match tests {
                    (Some(Equals::One(scalar)), None, None, None) => vec![scalar],
                    (None, None, None, Some(scalars)) if !scalars.is_empty() => scalars,
                    _ => return Err(ConditionProblem::Test),
                };
                Ok(Condition::Json { path, one_of })
            }
            (None, None, None, Some(media), None, None) => {
                untested(Condition::Media(lower(&media)?))
            }
            (None, None, None, None, Some(redirect), None) => {
                untested(Condition::Redirect(redirect))
            }
            (None, None, None, None, None, Some(edge)) => {
                if !is_name(&edge) {
                    return Err(ConditionProblem::Text);
                }
                untested(Condition::Edge(match edge.as_str() {
                    "none" => EdgeTest::None,
                    "known" => EdgeTest::Known,
                    _ => EdgeTest::Is(edge),
                }))
            }
            _ => Err(ConditionProblem::Subject),
        }
    }
}

impl Texts {
    fn lower(self) -> Result<Vec<String>, ConditionProblem> {
        let texts = match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        };
        if texts.is_empty() {
            return Err(ConditionProblem::Text);
        }
        texts.iter().map(|text| lower(text)).collect()
    }
}

fn lower(text: &str) -> Result<String, ConditionProblem> {
    if text.trim().is_empty() { Err(ConditionProblem::Text) } else { Ok(text.to_ascii_lowercase()) }
}

fn is_name(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.split('.').all(word)
}

fn is_header_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    !name.is_empty() && name.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(fields: &str) -> String {
        format!(
            "schema = 1\nversion = 1\n[[rule]]\n{fields}\ntext = \"A sentence.\"\nsource = \"V\"\n"
        )
    }

    fn check(fields: &str, expect: &str) {
        let text = rule(fields);
        let error = RuleTable::parse(&text).expect_err(fields);
        assert!(format!("{error:?}").contains(expect), "{fields}: {error:?}");
    }

    #[test]
    fn the_table_in_the_program_is_well_formed() {
        let table = RuleTable::builtin();
        assert!(table.rules().len() > 60);
        assert!(table.version() >= 1);
        for rule in table.rules() {
            assert_eq!(table.get(rule.number), Some(rule));
            assert_eq!(table.by_id(&rule.id), Some(rule));
            assert!(rule.text.ends_with('.'), "{}: a sentence ends with a stop", rule.id);
            assert!(rule.source.starts_with(['V', 'R', 'M']), "{}: no evidence level", rule.id);
        }
        assert_eq!(table.get(RuleNumber::NONE), None);
        assert_eq!(table.get(RuleNumber(u16::MAX)), None);
    }

    #[test]
    fn nothing_blames_an_edge_from_memory_or_by_the_status_alone() {
        for rule in RuleTable::builtin().rules() {
            if matches!(rule.fault, Fault::Edge | Fault::Aux) {
                assert!(rule.source.starts_with(['V', 'R']), "{}: {}", rule.id, rule.source);
                assert!(rule.provider.is_some() && !rule.when.is_empty(), "{}", rule.id);
            }
        }
    }

    #[test]
    fn every_rule_can_be_reached() {
        // A rule without conditions hides all later ones of the same statuses.
        let mut open: Vec<(&str, StatusRange)> = Vec::new();
        for rule in RuleTable::builtin().rules() {
            for range in &rule.status {
                let hider =
                    open.iter().find(|(_, o)| o.first <= range.first && range.last <= o.last);
                assert!(hider.is_none(), "{} hides {}", hider.unwrap().0, rule.id);
            }
            if rule.when.is_empty() && rule.unless.is_empty() {
                open.extend(rule.status.iter().map(|range| (rule.id.as_str(), *range)));
            }
        }
    }

    #[test]
    fn any_5xx_is_covered() {
        let all = |rule: &&Rule| rule.status.contains(&StatusRange { first: 500, last: 999 });
        let last: Vec<_> = RuleTable::builtin().rules().iter().filter(all).collect();
        let edges: Vec<_> = last.iter().flat_map(|rule| &rule.when).collect();
        assert!(edges.contains(&&Condition::Edge(EdgeTest::Known)));
        assert!(edges.contains(&&Condition::Edge(EdgeTest::None)));
    }

    #[test]
    fn malformed_tables_are_refused() {
        check("number = 0\nid = \"a\"\nfault = \"edge\"\nstatus = [500]", "NumberZero");
        check("number = 1\nid = \"A b\"\nfault = \"edge\"\nstatus = [500]", "Name");
        check("number = 1\nid = \"a..b\"\nfault = \"edge\"\nstatus = [500]", "Name");
        check("number = 1\nid = \"a\"\nfault = \"nobody\"\nstatus = [500]", "Toml");
        check("number = 1\nid = \"a\"\nfault = \"aux\"\nstatus = [500]", "Aux");
        check("number = 1\nid = \"a\"\naux = \"b\"\nfault = \"edge\"\nstatus = [500]", "Aux");
        check("number = 1\nid = \"a\"\nfault = \"edge\"\nstatus = []", "Status");
        for status in ["99", "1000", "\"500\"", "\"504-500\"", "\"500-1000\"", "\"5xx\"", "\"-\""] {
            let fields = format!("number = 1\nid = \"a\"\nfault = \"edge\"\nstatus = [{status}]");
            check(&fields, "Status");
        }
        for (condition, expect) in [
            ("{ }", "Subject"),
            ("{ header = \"a\", body = \"b\" }", "Subject"),
            ("{ equals = \"a\" }", "Subject"),
            ("{ header = \"A\" }", "Text"),
            ("{ header = \"\" }", "Text"),
            ("{ header = \"a\", equals = \"\" }", "Text"),
            ("{ header = \"a\", equals = 1 }", "Test"),
            ("{ header = \"a\", contains = [] }", "Text"),
            ("{ json = \"a\", equals = [\"b\"] }", "Test"),
            ("{ header = \"a\", one_of = [\"b\"] }", "Test"),
            ("{ header = \"a\", equals = \"b\", prefix = \"c\" }", "Test"),
            ("{ body = \"\" }", "Text"),
            ("{ body = [] }", "Text"),
            ("{ body = \"a\", contains = \"b\" }", "Test"),
            ("{ json = \"a\" }", "Test"),
            ("{ json = \"a\", one_of = [] }", "Test"),
            ("{ json = \"a..b\", equals = 1 }", "Text"),
            ("{ media = \"a/b\", equals = \"c\" }", "Test"),
            ("{ redirect = \"home\" }", "Toml"),
            ("{ edge = \"No One\" }", "Text"),
            ("{ regex = \".*\" }", "Toml"),
        ] {
            let fields = format!(
                "number = 1\nid = \"a\"\nfault = \"edge\"\nstatus = [500]\nwhen = [{condition}]"
            );
            check(&fields, expect);
        }
        let one = "[[rule]]\nnumber = 1\nid = \"a\"\nfault = \"edge\"\nstatus = [500]\n\
                   text = \"A.\"\nsource = \"V\"\n";
        let twice = format!("schema = 1\nversion = 1\n{one}{one}");
        assert!(matches!(RuleTable::parse(&twice), Err(RuleError::NumberTwice { .. })));
        let ids = format!("schema = 1\nversion = 1\n{one}{}", one.replace("= 1", "= 2"));
        assert!(matches!(RuleTable::parse(&ids), Err(RuleError::IdTwice { .. })));
        let schema = RuleTable::parse("schema = 2\nversion = 1\n");
        assert!(matches!(schema, Err(RuleError::Schema { found: 2 })));
    }
}
