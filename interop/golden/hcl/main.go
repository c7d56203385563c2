// Writes what hashicorp/hcl v1 makes of sample texts, for crates/hcl to be
// held against: the tree, the canonical print, and the decoding into Sample.
//
//	go run . ../../../crates/hcl/tests/golden
//
// Each NAME.hcl and NAME.json of the folder gets a NAME.hcl.golden or
// NAME.json.golden beside it.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"
	hclparser "github.com/hashicorp/hcl/hcl/parser"
	"github.com/hashicorp/hcl/hcl/printer"
	"github.com/hashicorp/hcl/hcl/token"
	jsonparser "github.com/hashicorp/hcl/json/parser"
)

// Sample has a field for every way of decoding that configurations use.
type Sample struct {
	Text    string                    `hcl:"text" json:"text"`
	Int     int                       `hcl:"int" json:"int"`
	Float   float64                   `hcl:"float" json:"float"`
	Bool    bool                      `hcl:"bool" json:"bool"`
	MayText *string                   `hcl:"may_text" json:"may_text"`
	MayInt  *int                      `hcl:"may_int" json:"may_int"`
	MayBool *bool                     `hcl:"may_bool" json:"may_bool"`
	Texts   []string                  `hcl:"texts" json:"texts"`
	Ints    []int                     `hcl:"ints" json:"ints"`
	Sub     Sub                       `hcl:"sub" json:"sub"`
	MaySub  *Sub                      `hcl:"may_sub" json:"may_sub"`
	Subs    []Sub                     `hcl:"subs" json:"subs"`
	Map     map[string]Sub            `hcl:"map" json:"map"`
	Maps    map[string]map[string]Sub `hcl:"maps" json:"maps"`
	Words   map[string]string         `hcl:"words" json:"words"`
	Node    ast.Node                  `hcl:"node" json:"-"`

	Unused map[string][]token.Pos `hcl:",unusedKeyPositions" json:"-"`
}

// Sub is what Sample nests.
type Sub struct {
	Text  string   `hcl:"text" json:"text"`
	Int   int      `hcl:"int" json:"int"`
	Texts []string `hcl:"texts" json:"texts"`
	Inner *Sub     `hcl:"inner" json:"inner"`

	Unused map[string][]token.Pos `hcl:",unusedKeyPositions" json:"-"`
}

// Golden is what a file holds.
type Golden struct {
	ParseError  string   `json:"parse_error,omitempty"`
	Tree        []string `json:"tree,omitempty"`
	Printed     string   `json:"printed,omitempty"`
	DecodeError string   `json:"decode_error,omitempty"`
	Decoded     *Sample  `json:"decoded,omitempty"`
	Node        *string  `json:"node,omitempty"`
	Unused      []string `json:"unused,omitempty"`
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: go run . <folder>")
	}
	for _, pattern := range []string{"*.hcl", "*.json"} {
		paths, err := filepath.Glob(filepath.Join(os.Args[1], pattern))
		if err != nil {
			log.Fatal(err)
		}
		for _, path := range paths {
			if err := write(path); err != nil {
				log.Fatalf("%s: %v", path, err)
			}
		}
	}
}

func write(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	out := new(bytes.Buffer)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(examine(text)); err != nil {
		return err
	}
	return os.WriteFile(path+".golden", out.Bytes(), 0o644)
}

func examine(text []byte) (golden Golden) {
	file, err := parse(text)
	if err != nil {
		golden.ParseError = err.Error()
		return golden
	}
	dump(&golden.Tree, "", file.Node)
	golden.Printed = printed(file.Node)
	decode(&golden, string(text))
	return golden
}

// parse is the reading half of hcl.Decode, which reports no duplicate keys.
func parse(text []byte) (file *ast.File, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("panic: %v", reason)
		}
	}()
	if strings.HasPrefix(strings.TrimSpace(string(text)), "{") {
		return jsonparser.Parse(text)
	}
	return hclparser.ParseDontErrorOnDuplicateKeys(text)
}

func printed(node ast.Node) (text string) {
	defer func() {
		if reason := recover(); reason != nil {
			text = fmt.Sprintf("panic: %v", reason)
		}
	}()
	var out bytes.Buffer
	if err := printer.DefaultConfig.Fprint(&out, node); err != nil {
		return err.Error()
	}
	return out.String()
}

func decode(golden *Golden, text string) {
	defer func() {
		if reason := recover(); reason != nil {
			golden.DecodeError = fmt.Sprintf("panic: %v", reason)
		}
	}()
	sample := new(Sample)
	if err := hcl.Decode(sample, text); err != nil {
		golden.DecodeError = err.Error()
		return
	}
	golden.Decoded = sample
	if sample.Node != nil {
		node := printed(sample.Node)
		golden.Node = &node
	}
	golden.Unused = unused("root", sample.Unused)
	golden.Unused = append(golden.Unused, ofSub("root.sub", &sample.Sub)...)
	golden.Unused = append(golden.Unused, ofSub("root.may_sub", sample.MaySub)...)
	for i := range sample.Subs {
		golden.Unused = append(golden.Unused, ofSub(fmt.Sprintf("root.subs[%d]", i), &sample.Subs[i])...)
	}
	for name, sub := range sample.Map {
		golden.Unused = append(golden.Unused, ofSub("root.map."+name, &sub)...)
	}
	for outer, inner := range sample.Maps {
		for name, sub := range inner {
			golden.Unused = append(golden.Unused, ofSub("root.maps."+outer+"."+name, &sub)...)
		}
	}
	sort.Strings(golden.Unused)
}

func ofSub(path string, sub *Sub) []string {
	if sub == nil {
		return nil
	}
	return append(unused(path, sub.Unused), ofSub(path+".inner", sub.Inner)...)
}

func unused(path string, keys map[string][]token.Pos) (out []string) {
	for key, places := range keys {
		for _, place := range places {
			out = append(out, fmt.Sprintf("%s %s %s", path, key, place))
		}
	}
	return out
}

// dump writes a line per node.
func dump(out *[]string, indent string, node ast.Node) {
	line := func(format string, args ...any) {
		*out = append(*out, indent+fmt.Sprintf(format, args...))
	}
	switch n := node.(type) {
	case *ast.ObjectList:
		for _, item := range n.Items {
			var keys []string
			for _, key := range item.Keys {
				keys = append(keys, fmt.Sprintf("%s@%s", key.Token.Text, key.Token.Pos))
			}
			line("item %s assigned=%t lead=%s line=%s", strings.Join(keys, " "), item.Assign.IsValid(),
				comments(item.LeadComment), comments(item.LineComment))
			dump(out, indent+"  ", item.Val)
		}
	case *ast.ObjectType:
		line("object@%s", n.Lbrace)
		dump(out, indent+"  ", n.List)
	case *ast.ListType:
		line("list@%s", n.Lbrack)
		for _, value := range n.List {
			dump(out, indent+"  ", value)
		}
	case *ast.LiteralType:
		line("%s@%s %s lead=%s line=%s", n.Token.Type, n.Token.Pos, quoted(n.Token.Text),
			comments(n.LeadComment), comments(n.LineComment))
	default:
		line("%T", node)
	}
}

func comments(group *ast.CommentGroup) string {
	texts := []string{}
	if group != nil {
		for _, comment := range group.List {
			texts = append(texts, comment.Text)
		}
	}
	return quoted(texts)
}

// quoted is JSON, which other languages can write too.
func quoted(value any) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(out.String(), "\n")
}
