pub fn check_workspace() -> crate::error::Result<bool> {
    Ok(true)
}
