# The scripts are sound for the shells that are here.
for shell in bash zsh fish; do
  "$POLYKV" completion $shell > script || echo "exit $?"
  if command -v $shell > /dev/null; then $shell -n script || echo "$shell: syntax"; fi
done
"$POLYKV" --version | sed 's/[0-9.]*$/VERSION/'
"$POLYKV" --version -v | sed 's/: .*//'
