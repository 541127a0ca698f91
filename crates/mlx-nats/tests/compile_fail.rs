//! What a beginner gets wrong does not compile, and the message says what to write instead.

#[test]
fn mistakes_of_beginners_are_told_by_the_compiler() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
