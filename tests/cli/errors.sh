# What is wrong with a file is told apart by exit status; several files are each reported and the worst status wins.
t() { "$POLYKV" "$@"; echo "exit $?"; }
"$MAKE_POOL" good.pkv 2 2 64 100 k5v4 1
t verify good.pkv
t verify --digest good.pkv
t verify gone.pkv
mkdir folder.pkv
t verify folder.pkv
mkfifo fifo.pkv
t verify fifo.pkv
: > empty.pkv
t inspect empty.pkv
echo text > text.pkv
t inspect text.pkv
t ask text.pkv 'Who pays?'
t stats text.pkv
printf '\211PKV\n\032\n' > as_text.pkv
t verify as_text.pkv
head -c 10000 /dev/zero > unfinished.pkv
t stats unfinished.pkv
head -c 20000 good.pkv > short.pkv
t stats short.pkv
{ cat good.pkv; echo; } > long.pkv
t verify long.pkv
{ head -c 8300 good.pkv; printf 'XX'; tail -c +8303 good.pkv; } > bad.pkv
t verify bad.pkv
cp good.pkv open.pkv
chmod 666 open.pkv
t inspect open.pkv
t verify --trust open.pkv
t verify -q text.pkv good.pkv bad.pkv
t verify --json text.pkv good.pkv
t export good.pkv -o text.pkv
t export good.pkv -o no/folder/x
