//! What the book and the examples show of configurations is taken as it stands there.

use std::{fs, path::Path};

use plimsoll::preset;

use crate::config::File;

/// The blocks of TOML in a page, but for manifests of Cargo.
fn configurations(page: &str) -> Vec<String> {
    let blocks = page.split("\n```toml\n").skip(1);
    blocks
        .filter_map(|rest| rest.split_once("\n```"))
        .map(|(block, _)| format!("{block}\n"))
        .filter(|block| !block.contains("[dependencies"))
        .collect()
}

#[test]
fn every_configuration_in_the_book_is_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).expect("the book is there");
    let pages = pages.map(|page| page.expect("it can be listed").path());
    let mut taken = 0;
    let take = |from: &Path, text: &str| {
        let file = File::of("page", text);
        let setup = preset::server("shop").config(&file.path);
        if let Err(error) = setup.variables::<&str, &str>([]).build() {
            panic!("{}: {error}\n{text}", from.display());
        }
    };
    for page in pages.filter(|page| page.extension().is_some_and(|kind| kind == "md")) {
        let text = fs::read_to_string(&page).expect("it can be read");
        for block in configurations(&text) {
            take(&page, &block);
            taken += 1;
        }
    }
    assert!(taken >= 2, "only {taken} configurations were found");
    for example in ["preset.toml", "coffee_shop/coffee_shop.toml"] {
        let example = root.join("examples").join(example);
        take(
            &example,
            &fs::read_to_string(&example).expect("it is there"),
        );
    }
}
