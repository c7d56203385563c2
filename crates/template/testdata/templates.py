"""Writes templates.json: the templates that Go and this crate are compared on."""
import json, pathlib

T = r'''
/{{ .PluginName }}/{{ .Fingerprint }}
/{{ .PluginName}}/{{.Fingerprint }}
/{{- .PluginName -}}/
a {{- " b " -}} c
a  {{/* note */}}  b
a  {{- /* note */ -}}  b
{{ .Tags.Name }}/{{ .Tags.Env }}
{{ index .Tags "Name" }}
{{ index .Tags "missing" }}|
{{ .Tags.missing }}
{{ .Missing }}
{{ .Any.missing }}
{{ index .Any "missing" }}
{{ .Any.text.deeper }}
{{ .Any.nothing.deeper }}
{{ .Any.map.key }}
{{ .Any.map.key.more }}
{{ .Inner.Name }}
{{ .Inner.Count }}
{{ .Inner.Nope }}
{{ .Subject }}
{{ .Subject.CommonName }}
{{ .Subject.String }}
{{ .Subject.Nope }}
{{ .Names }}
{{ .List }}
{{ .Tags }}
{{ .Any }}
{{ .Inner }}
{{ .Count }} {{ .Serial }} {{ .Ratio }} {{ .Yes }} {{ .No }}
{{ .Nothing }}
{{ .Empty }}|
{{ if .Yes }}y{{ else }}n{{ end }}
{{ if .No }}y{{ else }}n{{ end }}
{{ if .Empty }}y{{ else if .Count }}c{{ else }}n{{ end }}
{{ if and .Yes .Tags.Name }}y{{ end }}
{{ if or .No .Empty }}y{{ else }}n{{ end }}
{{ if not .No }}y{{ end }}
{{ and .Yes .Empty }}|{{ or .Empty "x" }}
{{ and .No .Any.missing }}
{{ or .Yes .Any.missing }}
{{ with .Tags.Name }}{{ . }}{{ end }}
{{ with .Empty }}x{{ else }}y{{ end }}
{{ with .Empty }}x{{ else with .Count }}{{ . }}{{ end }}
{{ with $x := .Tags.Name }}{{ $x }}-{{ $.Fingerprint }}{{ end }}
{{ range .Names }}[{{ . }}]{{ end }}
{{ range $i, $n := .Names }}{{ $i }}={{ $n }};{{ end }}
{{ range $k, $v := .Tags }}{{ $k }}={{ $v }};{{ end }}
{{ range $v := .Tags }}{{ $v }};{{ end }}
{{ range .Names }}{{ if eq . "b" }}{{ break }}{{ end }}{{ . }}{{ end }}
{{ range .Names }}{{ if eq . "b" }}{{ continue }}{{ end }}{{ . }}{{ end }}
{{ range 3 }}{{ . }}{{ end }}
{{ range $i := 3 }}{{ $i }}{{ end }}
{{ range .Empty }}x{{ else }}none{{ end }}
{{ range .Nothing }}x{{ else }}none{{ end }}
{{ range list }}x{{ else }}none{{ end }}
{{ range .Inner }}x{{ end }}
{{ range .Fingerprint }}x{{ end }}
{{ $x := "a" }}{{ $x }}{{ $x = "b" }}{{ $x }}
{{ $x := "a" }}{{ if true }}{{ $x = "b" }}{{ end }}{{ $x }}
{{ $x := "a" }}{{ if true }}{{ $x := "b" }}{{ $x }}{{ end }}{{ $x }}
{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" .PluginName }}
{{ define "t" }}<{{ .Name }}>{{ end }}{{ template "t" .Inner }}
{{ block "b" .PluginName }}({{ . }}){{ end }}
{{ template "none" . }}
{{ define "t" }}x{{ template "t" . }}{{ end }}{{ template "t" . }}
{{ define "t" }}{{ $x }}{{ end }}
{{ "quoted \"text\"" }}
{{ `raw\n` }}
{{ 'a' }}
{{ 12 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1_000 }} {{ 1.5 }} {{ 1e3 }} {{ -3 }}
{{ 99999999999999999999 }}
{{ 1.5e300 }} {{ 1e21 }} {{ 1e20 }} {{ 0.00001 }} {{ 100000.0 }}
{{ true }} {{ false }}
{{ nil }}
{{ .PluginName | upper }}
{{ "x" | printf "%s-%s" "y" }}
{{ printf "%d|%5d|%-5d|%05d|%x|%X|%o|%b|%c|%q|%U" 42 42 42 42 42 42 42 42 65 65 65 }}
{{ printf "%s|%10s|%-10s|%.2s|%q|%x" "text" "text" "text" "text" "te\"xt" "text" }}
{{ printf "%v %v %v %v" 1 "a" true 1.5 }}
{{ printf "%f|%.2f|%8.3f|%e|%g" 1.5 1.5 1.5 1.5 1.5 }}
{{ printf "%t" true }}
{{ printf "%T %T %T %T %T" 1 "a" true .Names .Tags }}
{{ printf "%d" "x" }}
{{ printf "%s" 3 }}
{{ printf "%d" }}
{{ printf "%d" 1 2 }}
{{ printf "%" }}
{{ printf "100%%" }}
{{ printf "%v" .Names }}{{ printf "%q" .Names }}
{{ printf "%+d % d" 5 5 }}
{{ printf "%#x %#o %#q" 255 8 "a" }}
{{ printf "%*d" 5 42 }}
{{ printf "%v" nil }}
{{ printf "%s" .Subject }}
{{ print "a" "b" 1 2 "c" }}
{{ print 1 2 3 }}
{{ println "a" 1 }}
{{ html "<a href='x'>&\"</a>" }}
{{ js "it's <b> \"x\" = &\n" }}
{{ urlquery "a b/c?d=e&f~-_." }}
{{ html 3 }} {{ urlquery "a" "b" 1 2 }}
{{ len .Names }} {{ len .Tags }} {{ len "abc" }}
{{ len 3 }}
{{ len .Nothing }}
{{ index .Names 1 }}
{{ index .Names 9 }}
{{ index .Names 3 }}
{{ index .Names -1 }}
{{ index .Names "x" }}
{{ index .Any "map" "key" }}
{{ index .Tags 3 }}
{{ index "abc" 1 }}
{{ index .Count 1 }}
{{ index .Nothing 1 }}
{{ slice .Names 1 }}
{{ slice .Names 1 2 }}
{{ slice .Names 2 1 }}
{{ slice "abc" 1 2 }}
{{ eq 1 1 }} {{ eq "a" "b" }} {{ ne 1 2 }} {{ eq 1 2 3 1 }}
{{ eq 1 "a" }}
{{ eq 1.5 1.5 }} {{ eq true false }}
{{ eq .Count .Serial }}
{{ lt 1 2 }} {{ le 2 2 }} {{ gt 1 2 }} {{ ge 2 2 }} {{ lt "a" "b" }}
{{ lt 1 "a" }}
{{ lt true false }}
{{ eq }}
{{ eq 1 }}
{{ eq .Names .Names }}
{{ eq .Nothing nil }}
{{ not 1 }} {{ not "" }}
{{ call .PluginName }}
{{ .PluginName.Foo }}
{{ .PluginName "arg" }}
{{ "a" "b" }}
{{ 3 | 4 }}
{{ .Names | len | printf "%03d" }}
{{ (index .Names 0) | upper }}
{{ (.Inner).Name }}
{{ (dict "a" "b").a }}
{{ $.PluginName }}
{{ . | len }}
{{ unknown }}
{{ .PluginName
{{ end }}
{{ if }}x{{ end }}
{{ if .Yes }}x
{{ else }}
{{ range $a, $b, $c := .Names }}{{ end }}
{{ $undefined }}
{{ .A.$b }}
{{ 1.2.3 }}
{{ "unterminated }}
{{ `unterminated }}
{{ 'ab' }}
{{ /* unclosed }}
{{ ( .Yes }}
{{ .Yes ) }}
{{}}
{{ | upper }}
{{ upper }}
{{ upper "a" "b" }}
{{ upper 3 }}
{{ upper .Count }}
{{ upper nil }}
{{ upper .Nothing }}
{{ upper true }}
{{ trunc "x" "y" }}
{{ break }}
{{ continue }}
{{ template }}
{{ template .Names }}
{{ define "x" }}a{{ end }}{{ define "x" }}b{{ end }}
{{ true.x }}
{{ nil.x }}
{{ ! }}
{{ .x! }}
{{ $x:=1}}{{$x}}
{{ $x := }}
{{ if true }}{{ else }}{{ else }}{{ end }}
{{ with $y := 1 }}{{ end }}{{ $y }}
a
b{{ .Missing }}
{{ abbrev 5 "hello world" }}|{{ abbrev 3 "hello" }}|{{ abbrev 20 "hello" }}|{{ abbrev 5 "" }}
{{ abbrevboth 5 10 "1234 5678 9123" }}|{{ abbrevboth 2 8 "1234 5678 9123" }}|{{ abbrevboth 9 8 "abcdefghijklmnopqrstuvwxyz" }}|{{ abbrevboth 0 3 "abcdef" }}|{{ abbrevboth 30 8 "abcdefghijklmnop" }}
{{ trunc 3 "hello" }}|{{ trunc -3 "hello" }}|{{ trunc 10 "hello" }}|{{ trunc 0 "hello" }}|{{ trunc -10 "hello" }}|{{ trunc -5 "hello" }}
{{ trim "  a b \n" }}|{{ trimAll "$" "$5.00$" }}|{{ trimSuffix "-" "x-" }}|{{ trimPrefix "-" "-x" }}|{{ trimPrefix "y" "-x" }}
{{ upper "abcé" }} {{ lower "ABCÉ" }} {{ title "hello my_world foo-bar x.y 1a" }} {{ untitle "Hello My World" }}
{{ substr 0 3 "hello" }}|{{ substr 2 -1 "hello" }}|{{ substr -1 2 "hello" }}|{{ substr 1 99 "hello" }}
{{ substr 4 2 "hello" }}
{{ substr 9 10 "hello" }}
{{ substr -1 -1 "hello" }}
{{ repeat 3 "ab" }}|{{ repeat 0 "ab" }}
{{ repeat -1 "ab" }}
{{ nospace " a b\tc " }}|{{ initials "First Try again" }}|{{ initials "" }}|{{ swapcase "This Is a.Test" }}
{{ snakecase "FirstName" }} {{ snakecase "HTTPServer" }} {{ snakecase "http2xx" }} {{ snakecase "HTTP20xOK" }} {{ snakecase "GO PATH" }} {{ snakecase "GO-PATH" }} {{ snakecase "Duration2m3s" }} {{ snakecase "Bld4Floor3rd" }} {{ snakecase "_x__y_" }} {{ snakecase "NoHTTPS" }} {{ snakecase "a.b.C" }} {{ snakecase "a1" }} {{ snakecase "A1 B2-c3" }} {{ snakecase "x$y" }} {{ snakecase "" }}
{{ kebabcase "FirstName" }} {{ kebabcase "HTTPServer" }} {{ kebabcase "http_2xx" }} {{ kebabcase "some words here" }} {{ kebabcase "ip-10-0-0-1.EC2.internal" }} {{ kebabcase "i-0abc12345DEF" }}
{{ camelcase "http_server" }} {{ camelcase "some words" }} {{ camelcase "GOLANG_IS_GREAT" }} {{ camelcase "_complex__case_" }} {{ camelcase "no_https" }} {{ camelcase "a" }} {{ camelcase "_" }} {{ camelcase "" }} {{ camelcase "ABC" }} {{ camelcase "--a--b--" }} {{ camelcase "firstName" }}
{{ wrap 5 "hello big world" }}|{{ wrap 3 "abcdefgh ij" }}|{{ wrap 0 "a b" }}|{{ wrapWith 5 "\t" "helloworld foo" }}|{{ wrapWith 3 "" "abcdefg" }}
{{ contains "ell" "hello" }} {{ hasPrefix "he" "hello" }} {{ hasSuffix "lo" "hello" }} {{ contains "x" "hello" }}
{{ quote "a" 1 "b\"c" nil }}|{{ squote "a" 1 }}|{{ cat "a" 1 nil "b" }}|{{ quote }}|{{ cat }}|
{{ quote .Names .Subject }}|{{ squote .Names }}|{{ cat .Names true }}
{{ indent 2 "a\nb" }}|{{ nindent 2 "a\nb" }}
{{ indent -1 "a" }}
{{ replace " " "-" "a b c" }}|{{ replace "" "-" "abc" }}|{{ plural "one" "many" 1 }}|{{ plural "one" "many" 2 }}
{{ plural "one" "many" (len .Names) }}
{{ sha1sum "hello" }} {{ sha256sum "hello" }} {{ adler32sum "hello" }}
{{ toString 3 }}{{ toString .Names }}{{ toString true }}{{ toString .Subject }}{{ toString 1.5 }}
{{ toString nil }}
{{ seq 5 }}|{{ seq -3 }}|{{ seq 2 5 }}|{{ seq 5 2 }}|{{ seq 0 2 10 }}|{{ seq 10 -2 0 }}|{{ seq 0 -2 -5 }}|{{ seq 5 2 0 }}|{{ seq }}|{{ seq 1 2 3 4 }}|{{ seq 0 }}|{{ seq 1 }}|{{ seq 0 0 5 }}
{{ splitList "/" "a/b/c" }} {{ splitList "" "abc" }} {{ splitList "x" "" }} {{ splitList "/" "a/b" | first }}
{{ toStrings (list 1 "a" nil true) }} {{ toStrings 3 }} {{ len (toStrings nil) }}
{{ join "-" .Names }} {{ join "-" (list 1 2 nil 3) }} {{ join "-" "x" }} {{ join "-" nil }}|
{{ sortAlpha (list "c" "a" "b") }} {{ sortAlpha "x" }} {{ sortAlpha (list 3 1 2) }}
{{ default "d" "" }} {{ default "d" "x" }} {{ default "d" 0 }} {{ default "d" nil }} {{ default "d" }} {{ .Empty | default "d" }} {{ default "d" (list) }}
{{ empty "" }} {{ empty 0 }} {{ empty nil }} {{ empty .Names }} {{ empty .Inner }} {{ empty false }} {{ empty 0.0 }}
{{ coalesce "" 0 nil "x" "y" }} {{ coalesce "" 0 }}
{{ all 1 "a" }} {{ all 1 "" }} {{ all }} {{ any "" 0 }} {{ any "" 1 }} {{ any }}
{{ compact (list 1 "" nil 0 "a" false) }} {{ mustCompact (list 0 1) }}
{{ ternary "a" "b" true }} {{ ternary "a" "b" false }} {{ true | ternary 1 2 }}
{{ ternary "a" "b" 1 }}
{{ base "/a/b/c.txt" }} {{ base "" }} {{ base "/" }} {{ base "a/" }} {{ base "//" }}
{{ dir "/a/b/c" }} {{ dir "a" }} {{ dir "/a" }} {{ dir "" }} {{ dir "/a/../b/c" }}
{{ clean "/a/../b//c/./d/" }} {{ clean "" }} {{ clean "../../a" }} {{ clean "/.." }} {{ clean "a/../.." }}
{{ ext "a/b.tar.gz" }} {{ ext "a.b/c" }}| {{ isAbs "/a" }} {{ isAbs "a" }}
{{ b64enc "hello" }} {{ b64dec "aGVsbG8=" }} {{ b32enc "hello" }} {{ b32dec "NBSWY3DP" }} {{ b32enc "a" }} {{ b32dec "ME======" }}
{{ b64dec "!!!" }} {{ b64dec "aGVsbG8" }} {{ b32dec "1" }}
{{ tuple 1 2 }} {{ list 1 "a" (list 2 3) }} {{ list }}
{{ dict "a" 1 "b" 2 }} {{ dict "a" }} {{ dict 1 2 }} {{ dict }}
{{ $d := dict "a" 1 }}{{ get $d "a" }} {{ get $d "b" }}|{{ hasKey $d "a" }} {{ hasKey $d "b" }}
{{ $d := dict "a" 1 }}{{ $_ := set $d "b" 2 }}{{ $d }}{{ $_ := unset $d "a" }}{{ $d }}
{{ get .Tags "Name" }}
{{ get .Any "text" }}
{{ get nil "x" }}|
{{ get "x" "y" }}
{{ set nil "x" 1 }}
{{ pluck "a" (dict "a" 1) (dict "b" 2) (dict "a" 3) }}
{{ keys (dict "a" 1) }} {{ values (dict "a" 1) }} {{ keys (dict "b" 1 "a" 2) | sortAlpha }}
{{ pick (dict "a" 1 "b" 2 "c" 3) "a" "c" }} {{ omit (dict "a" 1 "b" 2) "a" }}
{{ merge (dict "a" 1) (dict "a" 2 "b" 3) }} {{ mergeOverwrite (dict "a" 1) (dict "a" 2 "b" 3) }}
{{ merge (dict "a" (dict "x" 1)) (dict "a" (dict "x" 2 "y" 3)) }}
{{ merge (dict "a" "") (dict "a" 2) }} {{ mergeOverwrite (dict "a" 1) (dict "a" "") }} {{ mustMerge (dict "a" 1) (dict "b" 1) }} {{ mustMergeOverwrite (dict "a" 1) (dict "a" 5) }}
{{ append (list 1 2) 3 }} {{ push (list) 1 }} {{ mustAppend (list 1) 2 }} {{ mustPush (list 1) 2 }} {{ prepend (list 1) 0 }} {{ mustPrepend (list 1) 0 }}
{{ append "x" 1 }}
{{ append nil 1 }}
{{ first (list 1 2) }} {{ last (list 1 2) }} {{ rest (list 1 2 3) }} {{ initial (list 1 2 3) }} {{ first (list) }} {{ rest (list) }} {{ mustFirst .Names }} {{ mustLast .Names }} {{ mustRest .Names }} {{ mustInitial .Names }}
{{ first "abc" }}
{{ first nil }}
{{ reverse (list 1 2 3) }} {{ mustReverse .Names }} {{ uniq (list 1 1 2 "a" "a") }} {{ mustUniq (list 1 1) }}
{{ without (list 1 2 3) 2 }} {{ mustWithout (list "a" "b") "a" "b" }} {{ has 2 (list 1 2) }} {{ mustHas "x" .Names }} {{ has "a" .Names }} {{ has 1 nil }}
{{ has 1 "abc" }}
{{ slice (list 1 2 3) 0 2 }} {{ mustSlice (list 1 2 3) 1 }} {{ slice (list) 1 }}
{{ concat (list 1) (list 2 3) .Names }} {{ chunk 2 (list 1 2 3 4 5) }} {{ mustChunk 3 (list 1 2 3) }}
{{ concat "x" }}
{{ dig "a" "b" "dflt" (dict "a" (dict "b" 7)) }} {{ dig "a" "x" "dflt" (dict "a" (dict "b" 7)) }} {{ dig "z" "dflt" (dict) }}
{{ dig "a" (dict) }}
{{ dig "a" "b" "d" (dict "a" 1) }}
{{ uuidv4 | len }}
{{ fail "no luck" }}
{{ if .Yes }}{{ fail "stop" }}{{ end }}
{{ regexMatch "^[a-z]+$" "abc" }} {{ regexMatch "(" "x" }} {{ mustRegexMatch "\\d+" "a1" }}
{{ regexFind "[0-9]+" "ab12cd34" }} {{ regexFind "x" "y" }}| {{ mustRegexFind "a.c" "xabcx" }}
{{ regexFindAll "[0-9]" "1a2b3" -1 }} {{ regexFindAll "[0-9]" "1a2b3" 2 }} {{ mustRegexFindAll "x" "y" -1 }}
{{ regexReplaceAll "a(x*)b" "-ab-axxb-" "${1}W" }} {{ regexReplaceAll "a(x*)b" "-ab-axxb-" "$1W" }} {{ mustRegexReplaceAll "\\s+" "a b  c" "_" }}
{{ regexReplaceAllLiteral "a(x*)b" "-ab-axxb-" "${1}" }} {{ mustRegexReplaceAllLiteral "b" "abc" "$" }}
{{ regexSplit "z+" "pizza" -1 }} {{ regexSplit "," "a,b,c" 2 }} {{ mustRegexSplit "," "" -1 }} {{ regexSplit "," "a,b" 0 }} {{ regexSplit "" "abc" -1 }}
{{ regexQuoteMeta "1.2.3+[x]" }}
{{ regexMatch "\\w+" "é" }} {{ regexMatch "\\d" "٣" }} {{ regexMatch "a{,2}" "a{,2}" }} {{ regexMatch "[[]" "[" }} {{ regexMatch "[a&&b]" "&" }} {{ regexMatch "\\Qa.b\\E" "a.b" }} {{ regexMatch "(?i)ABC" "abc" }} {{ regexMatch "[[:alpha:]_]+$" "ab_" }} {{ regexMatch "\\bfoo\\b" "a foo b" }} {{ regexMatch "x{2}" "xx" }} {{ regexMatch "[]a]" "]" }} {{ regexMatch "a}" "a}" }}
{{ (urlParse "https://user:pw@example.org:8443/a%20b?q=1#frag").host }}
{{ urlParse "https://user:pw@example.org:8443/a%20b?q=1#frag" }}
{{ urlParse "spiffe://td/path/x" }} {{ urlParse "mailto:a@b" }} {{ urlParse "/only/path" }} {{ urlParse "" }} {{ urlParse "http://[::1]:80/" }}
{{ urlParse "http://a b/" }}
{{ urlParse "%zz" }}
{{ urlJoin (dict "scheme" "https" "host" "example.org" "path" "/a b" "query" "x=1" "fragment" "f") }} {{ urlJoin (dict "host" "h" "path" "p") }} {{ urlJoin (dict "path" "p") }} {{ urlJoin (dict "scheme" "s" "opaque" "o") }} {{ urlJoin (dict "scheme" "http" "host" "h" "userinfo" "u:p") }}
{{ urlJoin (dict "host" 3) }}
/{{ .PluginName }}/{{ .Tags.Name | lower | replace " " "-" | trunc 63 | trimSuffix "-" }}
/x509pop/{{ regexReplaceAll "[^a-zA-Z0-9._-]" .Subject.CommonName "_" }}
/{{ .PluginName }}/{{ if .Tags.Env }}{{ .Tags.Env }}{{ else }}none{{ end }}/{{ .Fingerprint | sha256sum | trunc 16 }}
/{{ with .Subject }}{{ .CommonName | splitList "." | first }}{{ end }}
/{{ join "/" (list .PluginName (default "x" .Empty) (index .Names 0)) }}
{{- $parts := splitList "." "a.b.c" -}}/{{ index $parts 1 }}
{{ $m := dict }}{{ range $i, $n := .Names }}{{ $_ := set $m $n $i }}{{ end }}{{ $m }}
{{ if has "b" .Names }}/yes{{ end }}
{{ $x := .Names }}{{ range $x }}{{ end }}{{ len $x }}
{{ if eq .PluginName "x509pop" "sshpop" }}pop{{ end }}
{{ if (and (eq 1 1) (or false (not false))) }}deep{{ end }}
{{ printf "%s/%s" .PluginName (trimPrefix "a" "abc") | upper | quote }}
{{ list 1 2 | first }} {{ "a,b" | splitList "," | join ";" }}
{{ range $i, $e := list 1 2 }}{{ range $j, $f := list 3 4 }}{{ $i }}{{ $j }}{{ $e }}{{ $f }} {{ end }}{{ end }}
{{ range list (list 1 2) (list 3) }}{{ range . }}{{ . }}{{ end }};{{ end }}
{{ range $k, $v := dict "b" 1 "a" 2 }}{{ $k }}{{ $v }}{{ end }}
{{ with dict "a" (dict "b" "c") }}{{ .a.b }}{{ end }}
{{ env "HOME" }}
{{ now }}
{{ randAlpha 3 }}
{{ genCA "x" 1 }}
{{ getHostByName "x" }}
{{ toJson . }}
{{ atoi "3" }}
{{ int "3" }}
{{ add 1 2 }}
{{ until 3 }}
{{ expandenv "$HOME" }}
{{ sha512sum "x" }}
{{ trimall "x" "x" }}
{{ deepCopy . }}
{{ 3i }}
{{ 1+2i }}
{{ "a" | }}
{{ .PluginName | | upper }}
{{ .PluginName "x" | upper }}
{{ upper | .PluginName }}
{{ range }}{{ end }}
{{ $x }}
{{ $x = 1 }}
{{ printf "%d %s" 1 }}
{{ printf 3 }}
{{ .Serial | printf "%d" }} {{ .Ratio | printf "%.1f" }}
{{ plural "a" "b" .Serial }}
{{ seq .Serial }}
{{ "é" | len }} {{ trunc 2 "éa" }}
{{ printf "%q %q" "é\n" "\x00\u200b" }}
{{ printf "%5t|%-7v|%07.2f|%+.1e" true "x" 3.14159 12345.678 }}
{{ printf "%6.3d|%x|% x" 7 "hi" "hi" }}
{{ printf "%[2]d %[1]d" 1 2 }}
{{ printf "%v|%d" (list 1 "a" nil) (list 1 2) }}
{{ printf "%s" (list "a" "b") }} {{ printf "%v" (dict "k" "v") }}
{{ printf "%z" 3 }} {{ printf "%!" }}
'''
MULTI = [
    "",
    "   ",
    "{{ if true }}\nx\n{{ end }}",
    "a\n{{- if true }} b{{ end }}",
    "{{ if true -}}\n  x\n{{- end }}",
    "line one\nline two {{ .Missing }}\n",
    "\n\n  {{ upper 3 }}",
    "{{ if true }}\n{{ unknown }}\n{{ end }}",
    "{{ \"a\nb\" }}",
    "{{ printf\n\"%s\"\n\"x\" }}",
    "{{ `a\nb` }}",
    "{{ if .Yes\n}}x{{ end }}",
    "x{{ .PluginName }",
    "{{ .PluginName }}}",
    "{{{ .PluginName }}}",
    "{{ .PluginName -}} \n\t y",
    "{{-3}} {{- 3}}",
    "{{ range .Names }}\n{{ end }}{{ if",
    "{{ /* a */ }}",
    "{{/* a }}",
    "{{/* a */ }}",
    "{{ upper\t\"x\" }}",
    "{{ $x := 1 }}{{ define \"a\" }}{{ end }}{{ $x }}",
    "{{ if true }}{{ define \"a\" }}{{ end }}{{ end }}",
    "{{ define \"a\" }}{{ end }}",
    "{{ define a }}{{ end }}",
    "{{ block \"a\" }}{{ end }}",
    "{{ block \"a\" . }}",
    "{{ template \"a\" . | upper }}{{ define \"a\" }}x{{ end }}",
]
lines = [line for line in T.split("\n") if line]
# The two lines `a` and `b{{ .Missing }}` are one template.
at = lines.index("a")
lines[at:at + 2] = ["a\nb{{ .Missing }}"]
here = pathlib.Path(__file__).parent
(here / "templates.json").write_text(json.dumps(lines + MULTI, indent=0, ensure_ascii=True) + "\n")
print(len(lines) + len(MULTI))
