// Command load prints how containerlab itself reads topology files: nodes, links, addresses, as one JSON object by path.
//
// It is containerlab's own loader of the version that go.mod pins, without a container runtime: nothing is created, pulled or
// downloaded. Files with kinds other than linux and bridge, or with a startup-config or licence (which the loader may fetch
// from the network while it parses), are refused before they are parsed further.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/charmbracelet/log"
	"github.com/srl-labs/containerlab/core"
	"github.com/srl-labs/containerlab/links"
	"github.com/srl-labs/containerlab/types"
)

type endpoint struct {
	Node      string `json:"node"`
	Interface string `json:"interface"`
	IPv4      string `json:"ipv4,omitempty"`
	IPv6      string `json:"ipv6,omitempty"`
}

type link struct {
	Type      string         `json:"type"`
	MTU       int            `json:"mtu"`
	Vars      map[string]any `json:"vars,omitempty"`
	Endpoints []endpoint     `json:"endpoints"`
}

type node struct {
	Kind         string                     `json:"kind"`
	Group        string                     `json:"group"`
	LongName     string                     `json:"long_name"`
	Hostname     string                     `json:"hostname"`
	Image        string                     `json:"image"`
	NetworkMode  string                     `json:"network_mode"`
	Entrypoint   string                     `json:"entrypoint"`
	Cmd          string                     `json:"cmd"`
	Exec         []string                   `json:"exec"`
	Binds        []string                   `json:"binds"`
	Env          map[string]string          `json:"env"`
	Sysctls      map[string]string          `json:"sysctls"`
	StartupDelay uint                       `json:"startup_delay"`
	WaitFor      map[string][]types.WaitFor `json:"wait_for"`
	StageExecs   int                        `json:"stage_execs"`
}

type reading struct {
	Error string          `json:"error,omitempty"`
	Name  string          `json:"name,omitempty"`
	Nodes map[string]node `json:"nodes,omitempty"`
	Links []link          `json:"links,omitempty"`
}

// onlyOurKinds ends the loading before anything of a node is looked at.
func onlyOurKinds(c *core.CLab) error {
	for name, definition := range c.Config.Topology.Nodes {
		kind := strings.ToLower(c.Config.Topology.GetNodeKind(name))
		if kind != "linux" && kind != "bridge" {
			return fmt.Errorf("node %s is of kind %q", name, kind)
		}
		if c.Config.Topology.GetNodeStartupConfig(name) != "" || c.Config.Topology.GetNodeLicense(name) != "" {
			return fmt.Errorf("node %s has a startup-config or a licence", name)
		}
		if definition != nil && definition.Runtime != "" {
			return fmt.Errorf("node %s has a runtime of its own", name)
		}
	}
	return nil
}

// read never panics: containerlab's loader does, on a mapping that is null.
func read(path string) (found reading) {
	defer func() {
		if cause := recover(); cause != nil {
			found = reading{Error: fmt.Sprintf("panic: %v", cause)}
		}
	}()
	c, err := core.NewContainerLab(core.WithTopoPath(path, nil), onlyOurKinds, core.WithSkippedBindsPathsCheck())
	if err == nil {
		err = c.ResolveLinks()
	}
	if err == nil {
		err = verified(c)
	}
	if err != nil {
		return reading{Error: err.Error()}
	}
	found = reading{Name: c.Config.Name, Nodes: map[string]node{}, Links: []link{}}
	for name, n := range c.Nodes {
		cfg := n.Config()
		waits := map[string][]types.WaitFor{}
		for stage, list := range cfg.Stages.GetWaitFor() {
			for _, wait := range list {
				waits[string(stage)] = append(waits[string(stage)], *wait)
			}
		}
		stages := cfg.Stages
		execs := len(stages.Create.Execs) + len(stages.CreateLinks.Execs) + len(stages.Configure.Execs) +
			len(stages.Healthy.Execs) + len(stages.Exit.Execs)
		hostname := cfg.Hostname
		if hostname == "" {
			hostname = cfg.ShortName
		}
		found.Nodes[name] = node{
			Kind: cfg.Kind, Group: cfg.Group, LongName: cfg.LongName, Hostname: hostname, Image: cfg.Image,
			NetworkMode: cfg.NetworkMode, Entrypoint: cfg.Entrypoint, Cmd: cfg.Cmd, Exec: cfg.Exec, Binds: cfg.Binds,
			Env: written(cfg.Env), Sysctls: cfg.Sysctls, StartupDelay: cfg.StartupDelay, WaitFor: waits, StageExecs: execs,
		}
	}
	for index := range c.Config.Topology.Links {
		l, ok := c.Links[index]
		if !ok {
			continue
		}
		told := link{Type: string(l.GetType()), MTU: l.GetMTU(), Vars: l.GetVars()}
		for _, e := range l.GetEndpoints() {
			told.Endpoints = append(told.Endpoints, endpoint{
				e.GetNode().GetShortName(), e.GetIfaceName(), prefix(e.GetIPv4Addr()), prefix(e.GetIPv6Addr()),
			})
		}
		found.Links = append(found.Links, told)
	}
	return found
}

// verified says what `deploy` would say of the endpoints without looking at this machine.
func verified(c *core.CLab) error {
	var problems []error
	for _, e := range c.Endpoints {
		problems = append(problems, links.CheckEndpointUniqueness(e))
	}
	for _, n := range c.Nodes {
		problems = append(problems, n.CheckInterfaceName())
	}
	return errors.Join(problems...)
}

// written is the environment without what containerlab adds by itself.
func written(env map[string]string) map[string]string {
	found := map[string]string{}
	for name, value := range env {
		if !strings.HasPrefix(name, "CLAB_LABEL_") && strings.ToLower(name) != "no_proxy" {
			found[name] = value
		}
	}
	return found
}

func prefix(p fmt.Stringer) string {
	if text := p.String(); !strings.HasPrefix(text, "invalid") {
		return text
	}
	return ""
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/srl-labs/containerlab" {
				return module.Version
			}
		}
	}
	return "unknown"
}

func main() {
	log.SetOutput(io.Discard)
	readings := map[string]reading{}
	for _, path := range os.Args[1:] {
		readings[path] = read(path)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	out.SetEscapeHTML(false)
	if err := out.Encode(map[string]any{"containerlab": version(), "readings": readings}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
