//! What the types forbid. After a change of compiler, `TRYBUILD=overwrite` writes its words anew.

#[test]
fn misuse_does_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/misuse/*.rs");
}
