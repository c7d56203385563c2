// Templates executes agent path templates with Go's text/template and sprig, as SPIRE does, and
// prints what comes of each: the golden answers of crates/template.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
)

type name struct {
	CommonName   string
	Organization []string
}

func (n name) String() string { return "CN=" + n.CommonName }

type inner struct {
	Name  string
	Count int
}

type agentPathTemplateData struct {
	PluginName  string
	Fingerprint string
	Count       int
	Serial      uint64
	Ratio       float64
	Yes         bool
	No          bool
	Empty       string
	Nothing     any
	Tags        map[string]string
	Any         map[string]any
	Names       []string
	List        []any
	Subject     name
	Inner       inner
}

var data = agentPathTemplateData{
	PluginName:  "x509pop",
	Fingerprint: "da39a3ee5e6b4b0d3255bfef95601890afd80709",
	Count:       7,
	Serial:      42,
	Ratio:       2.5,
	Yes:         true,
	Tags:        map[string]string{"Name": "Web Server 1", "Env": "prod"},
	Any: map[string]any{
		"text": "hello", "nothing": nil, "map": map[string]any{"key": "value"},
	},
	Names:   []string{"a", "b", "c"},
	List:    []any{1, "two", nil, true},
	Subject: name{CommonName: "node 1.example.org", Organization: []string{"Org"}},
	Inner:   inner{Name: "in", Count: 3},
}

type answer struct {
	Template string `json:"template"`
	Output   string `json:"output,omitempty"`
	Parse    string `json:"parse_error,omitempty"`
	Execute  string `json:"execute_error,omitempty"`
}

func main() {
	var names, templates []string
	read(os.Args[1], &names)
	read(os.Args[2], &templates)
	all, funcs := sprig.TxtFuncMap(), template.FuncMap{}
	for _, name := range names {
		funcs[name] = all[name]
	}
	answers := []answer{}
	for _, text := range templates {
		answers = append(answers, run(text, funcs))
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", " ")
	must(out.Encode(answers))
}

func run(text string, funcs template.FuncMap) answer {
	answer := answer{Template: text}
	parsed, err := template.New("agent-path").Option("missingkey=error").Funcs(funcs).Parse(text)
	if err != nil {
		answer.Parse = err.Error()
		return answer
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, data); err != nil {
		answer.Execute = err.Error()
		return answer
	}
	answer.Output = strings.ToValidUTF8(out.String(), "\uFFFD")
	return answer
}

func read(path string, into any) {
	raw, err := os.ReadFile(path)
	must(err)
	must(json.Unmarshal(raw, into))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
