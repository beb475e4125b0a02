//! `tocsin-collector location`: builds the table from address to country and network, and asks it.
//!
//! All decisions are in `engine::locate`; here files are read, lines become rows, and answers are
//! printed.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Subcommand};
use tocsin_proto::id::Country;

use crate::engine::locate::build::{Inputs, ProviderPrefix, Row, build};
use crate::engine::locate::table::{BUNDLED, Table};
use crate::engine::locate::{Locator, Mmdb, Source};

/// Build or ask the location table.
#[derive(Debug, Args)]
pub struct LocationArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build a table from CSV files
    Build(BuildArgs),
    /// Print country and network of addresses
    Lookup(LookupArgs),
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// Networks of IPv4 addresses: lines `first,last,asn[,name]`, in any order
    #[arg(long, value_name = "CSV")]
    asn_v4: PathBuf,
    /// Networks of IPv6 addresses, same form
    #[arg(long, value_name = "CSV")]
    asn_v6: PathBuf,
    /// Countries of IPv4 addresses: lines `first,last,code`
    #[arg(long, value_name = "CSV")]
    country_v4: PathBuf,
    /// Countries of IPv6 addresses, same form
    #[arg(long, value_name = "CSV")]
    country_v6: PathBuf,
    /// Prefixes that providers publish: lines `prefix,asn[,asn...]`, first the network to assume,
    /// then the provider's others
    #[arg(long, value_name = "CSV")]
    cidrs: PathBuf,
    /// Where to write the table
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The date of the data, kept in the table
    #[arg(long, value_name = "DATE", default_value = "undated")]
    date: String,
    /// A source of the data with the attribution its licence asks for, kept in the table; repeat
    /// for several
    #[arg(long = "source", value_name = "TEXT")]
    sources: Vec<String>,
}

#[derive(Debug, Args)]
struct LookupArgs {
    /// Addresses to look up
    #[arg(required = true, value_name = "IP")]
    addresses: Vec<IpAddr>,
    /// Ask this table instead of the one in the program
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Ask this MMDB file for countries
    #[arg(long, value_name = "MMDB")]
    country_mmdb: Option<PathBuf>,
    /// Ask this MMDB file for networks
    #[arg(long, value_name = "MMDB")]
    asn_mmdb: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs `location build` or `location lookup`.
///
/// # Errors
/// When a file cannot be read or written, a line of one makes no sense (the message says which), or
/// the rows make no table.
pub fn run(args: LocationArgs) -> Result<()> {
    match args.verb {
        Verb::Build(args) => run_build(args),
        Verb::Lookup(args) => run_lookup(&args),
    }
}

fn run_build(args: BuildArgs) -> Result<()> {
    let bytes = build(Inputs {
        asn_v4: rows(&args.asn_v4, asn)?,
        asn_v6: rows(&args.asn_v6, asn)?,
        country_v4: rows(&args.country_v4, country)?,
        country_v6: rows(&args.country_v6, country)?,
        providers: lines(&args.cidrs, provider)?,
        built: args.date,
        sources: args.sources,
    })?;
    let table = Table::decode(&bytes).context("the table just built does not decode")?;
    fs::write(&args.out, &bytes).with_context(|| format!("writing {}", args.out.display()))?;
    let about = table.about();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: {} bytes, {} in memory",
        args.out.display(),
        bytes.len(),
        table.memory_bytes()
    )?;
    writeln!(
        out,
        "rows: {} IPv4, {} IPv6, {} of providers; {} networks, {} countries",
        about.rows_v4, about.rows_v6, about.rows_providers, about.networks, about.countries
    )?;
    Ok(())
}

fn run_lookup(args: &LookupArgs) -> Result<()> {
    let table = match &args.table {
        Some(path) => {
            Table::decode(&read(path)?).with_context(|| format!("decoding {}", path.display()))?
        }
        None => Table::decode(BUNDLED).context("decoding the bundled table")?,
    };
    let locator = if args.country_mmdb.is_some() || args.asn_mmdb.is_some() {
        let providers = table.providers().clone();
        let (country, asn) = (mmdb(args.country_mmdb.as_deref())?, mmdb(args.asn_mmdb.as_deref())?);
        Locator::new([], providers, Source::Mmdb { country, asn, rest: Some(table) })
    } else {
        Locator::of_table([], table)
    };
    let mut out = std::io::stdout().lock();
    for ip in &args.addresses {
        let place = locator.locate(*ip);
        let (country, asn) = (place.country.as_str(), place.asn);
        if args.json {
            writeln!(out, r#"{{"ip":"{ip}","country":"{country}","asn":{asn}}}"#)?;
        } else {
            writeln!(out, "{ip} {country} AS{asn}")?;
        }
    }
    Ok(())
}

fn mmdb(path: Option<&Path>) -> Result<Option<Mmdb>> {
    let Some(path) = path else { return Ok(None) };
    let mmdb = Mmdb::parse(read(path)?).with_context(|| format!("decoding {}", path.display()))?;
    Ok(Some(mmdb))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Every line of a file, parsed; empty lines and lines that begin with `#` are skipped.
fn lines<T>(path: &Path, parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let wanted =
        text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let parsed = wanted.map(|(number, line)| {
        parse(line).with_context(|| format!("{}, line {}", path.display(), number + 1))
    });
    parsed.collect()
}

fn rows<A: FromStr, V>(path: &Path, value: impl Fn(&str) -> Result<V>) -> Result<Vec<Row<A, V>>> {
    lines(path, |line| row(line, &value))
}

/// `first,last,value` and anything behind another comma, which is a name nobody needs here.
fn row<A: FromStr, V>(line: &str, value: impl Fn(&str) -> Result<V>) -> Result<Row<A, V>> {
    let mut fields = line.splitn(4, ',');
    let mut next = || fields.next().context("expected first,last,value");
    Ok(Row { first: address(next()?)?, last: address(next()?)?, value: value(next()?)? })
}

fn address<A: FromStr>(field: &str) -> Result<A> {
    field.parse().map_err(|_| anyhow!("`{field}` is no address of this family"))
}

fn asn(field: &str) -> Result<u32> {
    field.parse().with_context(|| format!("`{field}` is no AS number"))
}

fn country(field: &str) -> Result<Country> {
    let code = field.as_bytes().try_into().ok().and_then(Country::new);
    code.with_context(|| format!("`{field}` is no country code of two upper-case letters"))
}

fn provider(line: &str) -> Result<ProviderPrefix> {
    let mut fields = line.split(',');
    let net = fields.next().unwrap_or_default();
    let net = net.parse().with_context(|| format!("`{net}` is no prefix"))?;
    let asns = fields.map(asn).collect::<Result<Vec<u32>>>()?;
    ensure!(!asns.is_empty(), "a prefix without a network");
    Ok(ProviderPrefix { net, asns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn rows_are_read_and_names_skipped() {
        let read =
            row::<Ipv4Addr, _>("192.0.2.0,192.0.2.255,64500,\"Example, Inc.\"", asn).unwrap();
        let expected =
            Row { first: [192, 0, 2, 0].into(), last: [192, 0, 2, 255].into(), value: 64_500 };
        assert_eq!(read, expected);
        assert_eq!(
            row::<Ipv6Addr, _>("2001:db8::,2001:db8::1,FR", country).unwrap().value.as_str(),
            "FR"
        );
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        let check = |line: &str, expect: &str| {
            let said = format!("{:#}", row::<Ipv4Addr, _>(line, country).unwrap_err());
            assert!(said.contains(expect), "{line}: {said}");
        };
        check("192.0.2.0,192.0.2.1", "expected first,last,value");
        check("2001:db8::,192.0.2.1,FR", "`2001:db8::` is no address of this family");
        check("192.0.2.0,192.0.2.1,fr", "`fr` is no country code");
        let said = |line: &str| format!("{:#}", provider(line).unwrap_err());
        assert!(said("192.0.2.0/33,1").contains("is no prefix"));
        assert!(said("192.0.2.0/24").contains("without a network"));
        assert!(said("192.0.2.0/24,AS1").contains("is no AS number"));
        assert_eq!(provider("192.0.2.0/24,1,2").unwrap().asns, [1, 2]);
    }
}
