# Pools that drop positions: what stats says of it, in words and as JSON, the chart of inspect, and the page's section.
cat > fidelity.json <<END
{"recall": {"positions": 90, "kld_mean": 0.002, "hits": [0.5, 1.0, 0.25], "reference_hits": [0.75, 1.0, 0.5]}}
END
"$MAKE_POOL" a.pkv 3 2 64 500 k5v4 7 fidelity.json 30
"$POLYKV" verify a.pkv
"$POLYKV" inspect a.pkv | sed -n '/codec  /,/fidelity/p'
"$POLYKV" inspect --json a.pkv | grep -o '"kept":.*]],"f'
"$POLYKV" stats a.pkv | grep -A1 '  kept'
"$POLYKV" stats --json a.pkv | grep -o '"kept":{[^}]*}'
"$POLYKV" stats a.pkv --html - > a.html
sed -n 's/<h2>\(.*\)<.h2>/\1/p; s/.*<summary>\(.*\)<.summary>.*/\1/p' a.html
grep -o '<s class="k0">' a.html | wc -l
# Ten tokens, of which the heads keep the sinks alone.
"$MAKE_POOL" sinks.pkv 1 2 64 10 k5v4 7 /dev/null 0
"$POLYKV" inspect sinks.pkv | sed -n '/shape  /,/fidelity/p'
"$POLYKV" stats sinks.pkv | grep -A1 '  kept'
"$POLYKV" stats sinks.pkv --html - | sed -n '/<details/,/<.details/p'
# Where nothing is dropped there is nothing to show.
"$MAKE_POOL" whole.pkv 3 2 64 500 k5v4 7 fidelity.json 100
"$POLYKV" inspect whole.pkv | grep kept
"$POLYKV" inspect --json whole.pkv | grep '"kept"'
"$POLYKV" stats whole.pkv | grep kept
"$POLYKV" stats --json whole.pkv | grep '"kept"'
"$POLYKV" stats whole.pkv --html - | grep -c 'What is kept'
