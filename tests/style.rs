//! Counts what the style guide forbids, in the production code of every package: tuple parameters,
//! doc comments of three words or fewer, type names that one program defines twice, long functions,
//! and long files. The rules are in CONTRIBUTING.md.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use backscroll_testkit::folder::rust_files;
use syn::{
    Attribute, FnArg, GenericArgument, Ident, Item, ItemFn, ItemImpl, ItemMod, Meta, PathArguments,
    Signature, Type,
    spanned::Spanned as _,
    visit::{self, Visit},
};

/// The folders whose code is linked into each program.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("backscroll", &["src", "matrix/src", "postgres/src", "tls/src", "telemetry/src"]),
    (
        "backscroll-gateway",
        &["gateway/src", "grpc-client/src", "matrix/src", "tls/src", "telemetry/src"],
    ),
    ("backscroll-synapse", &["synapse/src", "postgres/src", "tls/src", "telemetry/src"]),
];
const MAX_FUNCTION_LINES: usize = 70;
const MAX_FILE_LINES: usize = 450;
/// A doc comment of this many words or fewer says too little to be read alone.
const SHORT_DOC_WORDS: usize = 3;
/// The share of doc comments that may be that short.
const MAX_SHORT_DOCS_PERCENT: usize = 4;

/// One place in the sources, for a message.
type Place = String;

/// What one file has.
#[derive(Default)]
struct Counts {
    file: String,
    functions: usize,
    tuple_parameters: Vec<Place>,
    docs: usize,
    short_docs: Vec<Place>,
    types: Vec<(String, Place)>,
    long_functions: Vec<Place>,
}

impl Counts {
    fn of(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let syntax = syn::parse_file(&text).unwrap_or_else(|it| panic!("{}: {it}", file.display()));
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        let mut counts = Self { file: name, ..Self::default() };
        counts.visit_file(&syntax);
        counts
    }

    fn place(&self, what: &Ident) -> Place {
        format!("{}:{}: {what}", self.file, what.span().start().line)
    }

    fn signature(&mut self, signature: &Signature, is_forced: bool) {
        self.functions += 1;
        let lines = signature.inputs.iter().filter(|it| match it {
            FnArg::Typed(it) => is_tuple(&it.ty),
            FnArg::Receiver(_) => false,
        });
        // The signature of a trait from elsewhere cannot be chosen.
        if !is_forced {
            let place = self.place(&signature.ident);
            self.tuple_parameters.extend(lines.map(|_| place.clone()));
        }
    }

    fn length(&mut self, name: &Ident, lines: usize) {
        if lines > MAX_FUNCTION_LINES {
            let place = self.place(name);
            self.long_functions.push(format!("{place}: {lines} lines"));
        }
    }

    fn type_name(&mut self, name: &Ident) {
        let place = self.place(name);
        self.types.push((name.to_string(), place));
    }
}

impl<'ast> Visit<'ast> for Counts {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Struct(it) => self.type_name(&it.ident),
            Item::Enum(it) => self.type_name(&it.ident),
            Item::Trait(it) => self.type_name(&it.ident),
            Item::Type(it) => self.type_name(&it.ident),
            Item::Union(it) => self.type_name(&it.ident),
            _ => {}
        }
        if !is_test(attributes(item)) {
            self.documented(attributes(item), item.span().start().line);
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        visit::visit_item_mod(self, module);
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.signature(&function.sig, false);
        self.length(&function.sig.ident, lines(&function.block));
        visit::visit_item_fn(self, function);
    }

    fn visit_item_impl(&mut self, block: &'ast ItemImpl) {
        for item in &block.items {
            if let syn::ImplItem::Fn(function) = item {
                if is_test(&function.attrs) {
                    continue;
                }
                self.documented(&function.attrs, function.span().start().line);
                self.signature(&function.sig, block.trait_.is_some());
                self.length(&function.sig.ident, lines(&function.block));
                visit::visit_block(self, &function.block);
            }
        }
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        self.documented(&function.attrs, function.span().start().line);
        self.signature(&function.sig, false);
        if let Some(block) = &function.default {
            self.length(&function.sig.ident, lines(block));
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        self.documented(&field.attrs, field.span().start().line);
        visit::visit_field(self, field);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.documented(&variant.attrs, variant.span().start().line);
        visit::visit_variant(self, variant);
    }
}

impl Counts {
    fn documented(&mut self, attributes: &[Attribute], line: usize) {
        let text: Vec<String> = attributes.iter().filter_map(doc).collect();
        if text.is_empty() {
            return;
        }
        self.docs += 1;
        let text = text.join(" ");
        if text.split_whitespace().count() <= SHORT_DOC_WORDS {
            self.short_docs.push(format!("{}:{line}: {}", self.file, text.trim()));
        }
    }
}

/// The text of a line of a doc comment.
fn doc(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(meta) = &attribute.meta else { return None };
    let syn::Expr::Lit(literal) = &meta.value else { return None };
    match &literal.lit {
        syn::Lit::Str(text) if meta.path.is_ident("doc") => Some(text.value()),
        _ => None,
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|it| match &it.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string() == "test",
        meta => meta.path().is_ident("test"),
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

/// Whether a type is a tuple, by itself, behind a reference, or in an `Option`.
fn is_tuple(of: &Type) -> bool {
    match of {
        Type::Tuple(it) => it.elems.len() > 1,
        Type::Reference(it) => is_tuple(&it.elem),
        Type::Paren(it) => is_tuple(&it.elem),
        Type::Path(it) => it.path.segments.last().is_some_and(|last| {
            let PathArguments::AngleBracketed(arguments) = &last.arguments else { return false };
            last.ident == "Option"
                && arguments
                    .args
                    .iter()
                    .any(|it| matches!(it, GenericArgument::Type(it) if is_tuple(it)))
        }),
        _ => false,
    }
}

fn lines(block: &syn::Block) -> usize {
    let span = block.span();
    // The braces stand on the lines of the signature and of the end.
    (span.end().line - span.start().line).saturating_sub(1)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files of a folder that are not tests.
fn sources(folder: &str) -> Vec<PathBuf> {
    let is_test = |path: &Path| {
        path.components().any(|it| it.as_os_str() == "tests") || path.ends_with("tests.rs")
    };
    let files = rust_files(&root().join(folder)).into_iter();
    files.filter(|it| !is_test(it.strip_prefix(root()).unwrap())).collect()
}

/// The counts of every file of a program, of its own folder first.
fn counted(folders: &[&str]) -> Vec<Counts> {
    folders.iter().flat_map(|it| sources(it)).map(|it| Counts::of(&it)).collect()
}

/// The counts of every file of every program, once each.
fn all() -> Vec<Counts> {
    let mut folders: Vec<&str> = PROGRAMS.iter().flat_map(|(_, it)| *it).copied().collect();
    folders.sort_unstable();
    folders.dedup();
    counted(&folders)
}

fn report(what: &str, places: &[Place]) -> String {
    let mut text = format!("{what}:\n");
    for place in places {
        writeln!(text, "  {place}").unwrap();
    }
    text
}

#[test]
fn no_parameter_is_a_tuple() {
    let all = all();
    let functions: usize = all.iter().map(|it| it.functions).sum();
    assert!(functions > 1_000, "only {functions} functions were found");
    let places: Vec<Place> = all.into_iter().flat_map(|it| it.tuple_parameters).collect();
    println!("{} tuple parameters in {functions} functions", places.len());
    assert!(places.is_empty(), "{}", report("parameters that are tuples", &places));
}

#[test]
fn few_doc_comments_are_short() {
    let all = all();
    let docs: usize = all.iter().map(|it| it.docs).sum();
    assert!(docs > 1_000, "only {docs} doc comments were found");
    let places: Vec<Place> = all.into_iter().flat_map(|it| it.short_docs).collect();
    println!("{} of {docs} doc comments have {SHORT_DOC_WORDS} words or fewer", places.len());
    let at_most = docs * MAX_SHORT_DOCS_PERCENT / 100;
    assert!(places.len() <= at_most, "{}", report("short doc comments", &places));
}

#[test]
fn no_program_defines_a_type_name_twice() {
    for (program, folders) in PROGRAMS {
        let mut types: BTreeMap<String, Vec<Place>> = BTreeMap::new();
        for (name, place) in counted(folders).into_iter().flat_map(|it| it.types) {
            types.entry(name).or_default().push(place);
        }
        assert!(types.len() > 50, "only {} types were found in {program}", types.len());
        types.retain(|_, places| places.len() > 1);
        println!("{program}: {} type names are defined more than once", types.len());
        let places: Vec<Place> = types.into_values().flatten().collect();
        assert!(places.is_empty(), "{}", report(program, &places));
    }
}

#[test]
fn functions_are_short() {
    let places: Vec<Place> = all().into_iter().flat_map(|it| it.long_functions).collect();
    assert!(places.is_empty(), "{}", report("long functions", &places));
}

#[test]
fn files_are_short() {
    let mut folders: Vec<&str> = PROGRAMS.iter().flat_map(|(_, it)| *it).copied().collect();
    folders.extend([
        "tests",
        "gateway/tests",
        "synapse/tests",
        "grpc-client/tests",
        "testkit",
        "benches",
        "examples",
    ]);
    let mut places = Vec::new();
    let mut longest = 0;
    for file in folders.iter().flat_map(|it| rust_files(&root().join(it))) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        longest = longest.max(lines);
        if lines > MAX_FILE_LINES {
            places.push(format!("{}: {lines} lines", file.display()));
        }
    }
    println!("the longest file has {longest} lines");
    assert!(places.is_empty(), "{}", report("long files", &places));
}

/// The rules find what they are there to find.
#[test]
fn each_rule_finds_an_example() {
    let text = "
        /// One.
        struct A(u8);
        mod inner { struct A; }
        impl A {
            fn a(&self, (x, y): (u8, u8), z: Option<&(u8, u8)>, w: u8) {}
        }
        impl From<(u8, u8)> for A { fn from(pair: (u8, u8)) -> Self { A(pair.0) } }
        #[cfg(test)]
        mod tests { fn b(pair: (u8, u8)) {} }
    ";
    let mut counts = Counts::default();
    counts.visit_file(&syn::parse_file(text).unwrap());
    assert_eq!(counts.tuple_parameters.len(), 2);
    assert_eq!(counts.short_docs.len(), 1);
    assert_eq!(counts.types.len(), 2);
    let body = "\n".repeat(MAX_FUNCTION_LINES + 1);
    let mut counts = Counts::default();
    counts.visit_file(&syn::parse_file(&format!("fn long() {{\n{body}}}")).unwrap());
    assert_eq!(counts.long_functions.len(), 1);
}
